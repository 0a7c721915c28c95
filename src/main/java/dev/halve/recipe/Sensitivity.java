package dev.halve.recipe;

import dev.halve.core.sparsify.Sparsifier;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.report.Score;
import dev.halve.report.SensitivityRanking;
import dev.halve.report.SensitivityRow;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/** Prunes one layer at a time, the others dense, and measures what it costs the model. */
public final class Sensitivity {
  private Sensitivity() {}

  /**
   * Ranks the encoder's linear layers; nothing is written.
   *
   * @param plan with a calibration text, that errors are measured on too
   * @param asked null to judge a layer by its products alone, which takes one pass over the text;
   *     else every layer takes an evaluation
   */
  public static SensitivityRanking rank(
      String model, String device, PruningPlan plan, Questions asked, Progress progress) {
    try (Device opened = Devices.openForTraining(device);
        LoadedModel loaded =
            asked == null
                ? LoadedModel.ofEncoder(model, opened, progress)
                : LoadedModel.open(model, opened, 0, progress)) {
      loaded.model().toDense();
      List<PackedBatch> text =
          Calibration.batches(loaded.tokenizer(), loaded.model().bert(), plan.calibration());
      Examination examination = asked == null ? null : new Examination(asked, progress);
      try (ReconstructionError error =
          new ReconstructionError(loaded.model().bert(), text, progress)) {
        Evaluator.Outcome dense =
            examination == null ? null : examination.ask(loaded, "evaluate dense", progress);
        List<SensitivityRow> rows = rows(loaded, plan, error, examination, progress);
        return new SensitivityRanking(
            model,
            plan.label(),
            examination == null ? 0 : examination.questions().size(),
            dense == null ? null : dense.loss(),
            score(dense),
            rows);
      }
    }
  }

  private static List<SensitivityRow> rows(
      LoadedModel loaded,
      PruningPlan plan,
      ReconstructionError error,
      Examination examination,
      Progress progress) {
    List<SensitivityRow> rows = new ArrayList<>();
    for (Linear linear : loaded.model().bert().linears()) {
      Sparsifier sparsifier = Pruning.sparsifier(plan, error.inputs(linear));
      if (!Pruning.squash(sparsifier, List.of(linear)).isEmpty()) {
        continue;
      }
      Evaluator.Outcome outcome =
          examination == null
              ? null
              : examination.ask(loaded, "evaluate pruned " + linear.name(), progress);
      rows.add(
          new SensitivityRow(
              linear.name(),
              linear.weight().shape().elements(),
              error.of(linear),
              outcome == null ? null : outcome.loss(),
              score(outcome)));
      linear.setWeight(error.dense(linear));
    }
    return rows;
  }

  /**
   * The layers to keep dense within the plan's budget, by their reconstruction errors: the largest
   * first, each that still fits.
   */
  static List<String> withinBudget(
      LoadedModel loaded, PruningPlan plan, List<PackedBatch> text, Progress progress) {
    List<SensitivityRow> rows;
    try (ReconstructionError error =
        new ReconstructionError(loaded.model().bert(), text, progress)) {
      rows = rows(loaded, plan, error, null, progress);
    }
    return withinBudget(rows, plan.denseBudget());
  }

  /**
   * @param budget the share of all elements that may stay dense
   */
  static List<String> withinBudget(List<SensitivityRow> rows, double budget) {
    double left = budget * rows.stream().mapToLong(SensitivityRow::elements).sum();
    List<SensitivityRow> ranked =
        rows.stream()
            .sorted(Comparator.comparingDouble(SensitivityRow::reconstructionError).reversed())
            .toList();
    List<String> kept = new ArrayList<>();
    for (SensitivityRow row : ranked) {
      if (row.elements() <= left) {
        left -= row.elements();
        kept.add(row.layer());
      }
    }
    return kept;
  }

  private static Score score(Evaluator.Outcome outcome) {
    return outcome == null ? null : outcome.scores();
  }
}
