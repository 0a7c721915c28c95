package dev.halve.report;

import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Invented results of a small model, for tests of how they are shown. */
final class SampleResults {
  private SampleResults() {}

  static Results of(int layers) {
    Map<String, Object> settings = new LinkedHashMap<>();
    settings.put("preset", "quick");
    settings.put("model", "all-MiniLM-L6-v2");
    settings.put("fine_tune", Map.of("learning_rate", 3e-4, "batch_size", 16));
    Map<String, Double> seconds = new LinkedHashMap<>();
    seconds.put("fine-tune", 83.2);
    seconds.put("prune", 0.4);
    return new Results(
        "all-MiniLM-L6-v2",
        "synthetic",
        2400,
        300,
        "cpu",
        new Score(71.25, 80.5),
        new Score(20.0, 31.125),
        new Score(68.0, 77.75),
        new Score(68.0, 77.75),
        299,
        List.of(
            latency("dense", "eager", 1, 10),
            latency("2:4", "eager", 1, 8),
            latency("dense", "compiled", 1, 9),
            latency("2:4", "compiled", 1, 4.5),
            latency("dense", "compiled", 16, 130),
            latency("2:4", "compiled", 16, 140)),
        new ModelSize(90_000_000, 70_000_000, 42_000_000, 23_625_000, 42_000_000, 30_000_000),
        weights(layers),
        List.of("bert.odd.weight"),
        List.of(curve("fine-tune", 5.1), curve("retrain", 3.2)),
        List.of(
            new Example(
                "q1",
                "Who founded <b>Orlan</b> & when?",
                "The town of \"Orlan\" was founded by Ada Voss in 1804.",
                List.of("Ada Voss", "Voss"),
                "Ada Voss",
                true,
                "",
                false)),
        seconds,
        settings);
  }

  static Results withLoss(Results results, List<LossCurve> loss) {
    return new Results(
        results.model(),
        results.data(),
        results.trainQuestions(),
        results.evalQuestions(),
        results.device(),
        results.dense(),
        results.pruned(),
        results.retrained(),
        results.sparse(),
        results.sameAnswers(),
        results.latency(),
        results.size(),
        results.layers(),
        results.leftDense(),
        loss,
        results.examples(),
        results.seconds(),
        results.settings());
  }

  private static LatencyRow latency(String weights, String mode, int batch, double ms) {
    int tokens = batch * 128;
    return new LatencyRow(
        "halve", weights, mode, batch, 128, tokens, ms * 0.9, ms, ms * 1.2, tokens / ms * 1000);
  }

  private static LossCurve curve(String stage, double start) {
    List<LossCurve.Point> points = new ArrayList<>();
    for (int step = 5; step <= 80; step += 5) {
      points.add(new LossCurve.Point(step, start * Math.exp(-step / 40.0) + 0.4));
    }
    return new LossCurve(stage, points);
  }

  private static List<LayerSparsity> weights(int layers) {
    List<LayerSparsity> weights = new ArrayList<>();
    for (int layer = 0; layer < layers; layer++) {
      for (String module :
          List.of(
              "attention.self.query",
              "attention.self.key",
              "attention.self.value",
              "attention.output.dense",
              "intermediate.dense",
              "output.dense")) {
        weights.add(
            new LayerSparsity(
                "bert.encoder.layer." + layer + "." + module + ".weight",
                384,
                384,
                "2:4",
                0.5,
                589_824,
                331_776));
      }
    }
    return weights;
  }
}
