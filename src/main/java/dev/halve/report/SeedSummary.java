package dev.halve.report;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.function.ToDoubleFunction;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * Mean and spread of one run of the recipe with several seeds: the content of {@code seeds.json}.
 *
 * @param model name or folder of the pretrained model
 * @param data the questions
 * @param device what it ran on
 * @param seeds in their order
 */
@JsonNaming(SnakeCaseStrategy.class)
public record SeedSummary(
    String model, String data, String device, List<Long> seeds, List<Measure> measures) {
  /**
   * One measure over the seeds.
   *
   * @param unit {@code %} or {@code s}
   * @param standardDeviation of a sample, over n - 1; 0 for one seed
   * @param values by seed
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Measure(
      String name, String unit, double mean, double standardDeviation, List<Double> values) {}

  /** What several runs found. */
  public static SeedSummary of(List<Long> seeds, List<Results> runs) {
    List<Measure> measures = new ArrayList<>();
    measures.add(measure("Dense, exact match", "%", runs, run -> run.dense().exactMatch()));
    measures.add(measure("Dense, F1", "%", runs, run -> run.dense().f1()));
    measures.add(measure("Pruned, F1", "%", runs, run -> run.pruned().f1()));
    measures.add(measure("Retrained, F1", "%", runs, run -> run.retrained().f1()));
    measures.add(measure("2:4, exact match", "%", runs, run -> run.sparse().exactMatch()));
    measures.add(measure("2:4, F1", "%", runs, run -> run.sparse().f1()));
    measures.add(
        measure("2:4 less dense, F1", "%", runs, run -> run.sparse().f1() - run.dense().f1()));
    measures.add(measure("Fine-tuning", "s", runs, run -> seconds(run, "fine-tune")));
    measures.add(measure("Retraining", "s", runs, run -> seconds(run, "retrain")));
    Results first = runs.getFirst();
    return new SeedSummary(
        first.model(), first.data(), first.device(), List.copyOf(seeds), measures);
  }

  private static double seconds(Results run, String stage) {
    return run.seconds().getOrDefault(stage, 0.0);
  }

  private static Measure measure(
      String name, String unit, List<Results> runs, ToDoubleFunction<Results> value) {
    List<Double> values = runs.stream().map(value::applyAsDouble).toList();
    double mean = values.stream().mapToDouble(Double::doubleValue).average().orElseThrow();
    double squares = values.stream().mapToDouble(each -> (each - mean) * (each - mean)).sum();
    double deviation = values.size() == 1 ? 0 : Math.sqrt(squares / (values.size() - 1));
    return new Measure(name, unit, mean, deviation, values);
  }

  /** The summary as text, a line a measure. */
  public String table() {
    StringBuilder text = new StringBuilder();
    text.append("Model      ").append(model).append('\n');
    text.append("Questions  ").append(data).append('\n');
    text.append("Device     ").append(device).append('\n');
    text.append("Seeds      ").append(seeds.toString(), 1, seeds.toString().length() - 1);
    text.append("\n\n");
    text.append(line("", "mean", "std. dev.", "lowest", "highest"));
    text.append("-".repeat(72)).append('\n');
    for (Measure measure : measures) {
      double lowest = measure.values.stream().mapToDouble(Double::doubleValue).min().orElseThrow();
      double highest = measure.values.stream().mapToDouble(Double::doubleValue).max().orElseThrow();
      text.append(
          line(
              measure.name + (measure.unit.equals("s") ? ", s" : ""),
              number(measure.mean),
              number(measure.standardDeviation),
              number(lowest),
              number(highest)));
    }
    return text.toString().stripTrailing();
  }

  private static String number(double value) {
    return String.format(Locale.ROOT, "%.2f", value);
  }

  private static String line(String name, String... cells) {
    StringBuilder line = new StringBuilder("%-24s".formatted(name));
    for (String cell : cells) {
      line.append("%12s".formatted(cell));
    }
    return line.toString().stripTrailing() + "\n";
  }
}
