package dev.halve.recipe;

import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.report.LayerSparsity;
import dev.halve.report.MethodComparison;
import dev.halve.report.Score;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** Prunes one model by several methods, and measures what each leaves of it. */
public final class Comparison {
  private Comparison() {}

  /**
   * Compares; nothing is written.
   *
   * @param plans all with the same calibration text, which measures every method too
   * @param asked null for no scores
   */
  public static MethodComparison compare(
      String model, String device, List<PruningPlan> plans, Questions asked, Progress progress) {
    try (Device opened = Devices.openForTraining(device);
        LoadedModel loaded =
            asked == null
                ? LoadedModel.ofEncoder(model, opened, progress)
                : LoadedModel.open(model, opened, 0, progress)) {
      loaded.model().toDense();
      List<PackedBatch> text =
          Calibration.batches(
              loaded.tokenizer(), loaded.model().bert(), plans.getFirst().calibration());
      Examination examination = asked == null ? null : new Examination(asked, progress);
      try (ReconstructionError error =
          new ReconstructionError(loaded.model().bert(), text, progress)) {
        Score dense = score(loaded, examination, "dense", progress);
        List<MethodComparison.Method> methods = new ArrayList<>();
        for (PruningPlan plan : plans) {
          methods.add(method(loaded, plan, text, error, examination, progress));
          restore(loaded.model(), error);
        }
        return new MethodComparison(
            model,
            text.stream().mapToInt(PackedBatch::rows).sum(),
            text.stream().mapToInt(PackedBatch::tokens).sum(),
            examination == null ? 0 : examination.questions().size(),
            dense,
            methods);
      }
    }
  }

  private static MethodComparison.Method method(
      LoadedModel loaded,
      PruningPlan plan,
      List<PackedBatch> text,
      ReconstructionError error,
      Examination examination,
      Progress progress) {
    BertForQuestionAnswering model = loaded.model();
    long started = System.nanoTime();
    Pruning.Outcome outcome = Pruning.prune(model.bert(), plan, text, progress);
    double seconds = (System.nanoTime() - started) / 1e9;
    Score score = score(loaded, examination, plan.label(), progress);
    double sparsity = LayerSparsity.overall(Pruning.layers(model));
    if (outcome.channels() != null) {
      outcome.channels().undo();
    }
    Map<String, Double> errors = error.of(model.bert());
    return new MethodComparison.Method(plan.label(), seconds, sparsity, score, errors);
  }

  /** The dense weights again; biases are as they were, in their places. */
  private static void restore(BertForQuestionAnswering model, ReconstructionError error) {
    for (Linear linear : model.bert().linears()) {
      linear.setWeight(error.dense(linear));
    }
  }

  private static Score score(
      LoadedModel loaded, Examination examination, String name, Progress progress) {
    return examination == null
        ? null
        : examination.ask(loaded, "evaluate " + name, progress).scores();
  }
}
