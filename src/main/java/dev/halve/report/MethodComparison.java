package dev.halve.report;

import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.function.Function;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * Pruning methods side by side on one model, none retrained.
 *
 * @param calibrationRows rows of text
 * @param calibrationTokens in all of them
 * @param questions that were asked for the scores; 0 for none
 * @param dense the scores of the model before; null where none were asked for
 */
@JsonNaming(SnakeCaseStrategy.class)
public record MethodComparison(
    String model,
    int calibrationRows,
    int calibrationTokens,
    int questions,
    Score dense,
    List<Method> methods) {
  /**
   * One method.
   *
   * @param seconds that it took, calibration included, reading and measuring not
   * @param sparsity the share of zeros in the encoder's linear weights
   * @param score null where none was asked for
   * @param reconstructionError {@code ‖x·(W - Ŵ)ᵀ‖² / ‖x·Wᵀ‖²} by the linear layer's name, on what
   *     the dense model feeds it
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Method(
      String method,
      double seconds,
      double sparsity,
      Score score,
      Map<String, Double> reconstructionError) {
    /** The mean over the layers whose name the pattern finds; NaN if there are none. */
    double error(String pattern) {
      return reconstructionError.entrySet().stream()
          .filter(entry -> entry.getKey().matches(".*" + pattern + ".*"))
          .mapToDouble(Map.Entry::getValue)
          .average()
          .orElse(Double.NaN);
    }
  }

  /** The tables as text: errors by kind of layer, scores and times; then errors by layer. */
  public String text() {
    StringBuilder text = new StringBuilder();
    text.append(
        String.format(
            Locale.ROOT,
            "%s, calibrated on %,d rows (%,d tokens)%s%n%n",
            model,
            calibrationRows,
            calibrationTokens,
            questions == 0 ? "" : String.format(Locale.ROOT, ", asked %,d questions", questions)));
    text.append("Reconstruction error in per cent, scores without retraining, seconds\n");
    text.append(header());
    if (dense != null) {
      text.append(line("dense", method -> "", dense, null));
    }
    methods.forEach(method ->
        text.append(
            line(method.method(), part -> percent(method.error(part)), method.score(), method)));
    text.append("\nReconstruction error in per cent, by layer\n");
    text.append(byLayer());
    return text.toString();
  }

  /** By the names of BERT's layers, and of DistilBERT's. */
  private static final List<String> PARTS =
      List.of(
          "attention\\.(self|[qkv]_lin)",
          "attention\\.(output|out_lin)",
          "(intermediate\\.dense|ffn\\.lin1)",
          "(\\d\\.output\\.dense|ffn\\.lin2)");

  private String header() {
    String columns =
        "%-23s%9s%9s%9s%9s%9s".formatted("method", "q, k, v", "att. out", "inner", "output", "all");
    return columns + (dense == null ? "" : "%8s%8s".formatted("EM", "F1")) + "%9s%n".formatted("s");
  }

  private String line(String name, Function<String, String> error, Score score, Method method) {
    StringBuilder line = new StringBuilder("%-23s".formatted(name));
    PARTS.forEach(part -> line.append("%9s".formatted(error.apply(part))));
    line.append("%9s".formatted(error.apply("")));
    if (dense != null) {
      line.append("%8s%8s".formatted(Numbers.score(score.exactMatch()), Numbers.score(score.f1())));
    }
    line.append(method == null ? "" : String.format(Locale.ROOT, "%9.1f", method.seconds()));
    return line.toString().stripTrailing() + "\n";
  }

  private String byLayer() {
    StringBuilder table = new StringBuilder("%-6s".formatted("layer"));
    methods.forEach(method -> table.append("%22s".formatted(method.method())));
    table.append('\n');
    for (int layer = 0; !Double.isNaN(methods.getFirst().error(part(layer))); layer++) {
      String part = part(layer);
      table.append("%-6s".formatted(layer));
      methods.forEach(method -> table.append("%22s".formatted(percent(method.error(part)))));
      table.append('\n');
    }
    return table.toString();
  }

  private static String part(int layer) {
    return "layer\\." + layer + "\\.";
  }

  private static String percent(double error) {
    return String.format(Locale.ROOT, "%.2f", 100 * error);
  }
}
