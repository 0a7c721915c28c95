package dev.halve.recipe;

import dev.halve.core.HalveException;
import java.nio.file.Path;
import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * What to compare.
 *
 * @param model a built-in model's name or a Hugging Face folder; with random weights also a shape:
 *     {@code base}, {@code large}, {@code small}
 * @param randomWeights keep the model's shape alone; times do not depend on the weights
 * @param lengths a file with the length of a row on each line, used in turn and over again; null
 *     for rows of full length
 * @param modes of Halve: {@code eager}, {@code compiled}
 * @param weights of Halve: {@code dense}, {@code 2:4}
 * @param denseRows the share of every weight's rows that stay dense on the 2:4 side
 * @param peer {@code onnxruntime}, which runs the model's own dense graph; null for none
 * @param latency batch sizes, tokens a row, warm-up and repeats
 */
@JsonNaming(SnakeCaseStrategy.class)
public record BenchmarkSettings(
    String model,
    String device,
    boolean randomWeights,
    Path lengths,
    List<String> modes,
    List<String> weights,
    double denseRows,
    String peer,
    LatencySettings latency) {
  public BenchmarkSettings {
    modes = List.copyOf(modes);
    weights = List.copyOf(weights);
    requireAll(modes, List.of("eager", "compiled"), "modes");
    requireAll(weights, List.of("dense", "2:4"), "weights");
    Settings.require(
        peer == null || peer.equals("onnxruntime"), "peer", "onnxruntime", "'" + peer + "'");
    if (peer != null && randomWeights) {
      throw new HalveException(
          "a peer runs the model's own graph, which random weights have not; leave one of them"
              + " out");
    }
  }

  private static void requireAll(List<String> found, List<String> known, String name) {
    Settings.require(
        !found.isEmpty() && known.containsAll(found),
        name,
        String.join(" or ", known),
        String.join(",", found));
  }
}
