package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.core.sparsify.NOfM;
import dev.halve.core.sparsify.SparseGptSparsifier;
import dev.halve.recipe.CalibrationSettings;
import dev.halve.recipe.PruningMethod;
import dev.halve.recipe.PruningPlan;
import dev.halve.recipe.PruningSettings;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** By which method to prune, to what, calibrated on what. */
final class MethodOptions {
  private static final String SHARE = "\\d{1,2}(\\.\\d+)?%";

  @Option(
      names = "--method",
      paramLabel = "NAME",
      description =
          "magnitude (the default), wanda (magnitude times the norm of the input), sparsegpt"
              + " (second order, what stays is updated), transposable (2:4 along both axes).")
  private PruningMethod method;

  @Option(
      names = "--pattern",
      paramLabel = "N:M",
      description = "Of every M neighbours along the input N stay (default: 2:4).")
  private String pattern;

  @Option(
      names = "--permute",
      description =
          "Bring channels into an order in which 2:4 loses less; the model stays the same"
              + " function.")
  private boolean permute;

  @Option(
      names = "--damping",
      paramLabel = "SHARE",
      description = "SparseGPT's damping, a share of the Hessian's mean diagonal (default: 0.01).")
  private Double damping;

  @Option(
      names = "--calibration",
      paramLabel = "FILE",
      description = "The text that wanda and sparsegpt calibrate on: SQuAD v1.1, or plain text.")
  private Path calibration;

  @Option(
      names = "--calibration-rows",
      paramLabel = "N",
      description = "Rows that are sampled (default: 128).")
  private Integer calibrationRows;

  @Option(
      names = "--calibration-length",
      paramLabel = "TOKENS",
      description = "Tokens of such a row at the most (default: 384).")
  private Integer calibrationLength;

  @Option(
      names = "--calibration-seed",
      paramLabel = "N",
      description = "Of the sample (default: 0).")
  private Long seed;

  @Option(
      names = "--keep-dense",
      paramLabel = "NAMES|SHARE%",
      split = ",",
      description =
          "Layers that are left as they are, with * and ?: '*.value,*.layer.0.*'; or 10%%: so much"
              + " of the weights, in the layers that suffer most.")
  private List<String> keepDense;

  @Option(
      names = "--dense-rows",
      paramLabel = "SHARE",
      description =
          "The share of every weight's rows that stay dense beside 2:4 ones, those that pruning"
              + " hurts most, in blocks of 16 (default: 0).")
  private Double denseRows;

  @Mixin private PruningOptions weightNorm;

  /** The plan that was asked for. */
  PruningPlan plan() {
    return plan(method == null ? PruningMethod.MAGNITUDE : method);
  }

  /** The plan of a method, with everything else as it was asked for. */
  PruningPlan plan(PruningMethod by) {
    NOfM group = pattern == null ? NOfM.TWO_OF_FOUR : NOfM.parse(pattern);
    if (weightNorm.given() && (pattern != null || by != PruningMethod.MAGNITUDE)) {
      throw new HalveException(
          "blocks, levels and norms are magnitude's, in place of --pattern; leave them out");
    }
    PruningSettings blocks =
        new PruningSettings(1.0, 1, group.group(), group.group() - group.kept(), 2);
    return new PruningPlan(
        by,
        weightNorm.over(blocks),
        group,
        permute,
        damping == null ? SparseGptSparsifier.DAMPING : damping,
        calibration == null ? null : calibration(),
        names(keepDense),
        budget(keepDense),
        denseRows == null ? 0 : denseRows);
  }

  private static List<String> names(List<String> keepDense) {
    return keepDense == null
        ? List.of()
        : keepDense.stream().filter(each -> !each.matches(SHARE)).toList();
  }

  private static double budget(List<String> keepDense) {
    return keepDense == null
        ? 0
        : keepDense.stream()
            .filter(each -> each.matches(SHARE))
            .mapToDouble(each -> Double.parseDouble(each.replace("%", "")) / 100)
            .sum();
  }

  /** The plans that are compared: every method, and those by magnitudes in another order too. */
  List<PruningPlan> comparison() {
    requireText("--compare");
    List<PruningPlan> plans = new ArrayList<>();
    for (PruningMethod each : PruningMethod.values()) {
      plans.add(plan(each).with(each, false));
      if (each != PruningMethod.TRANSPOSABLE) {
        plans.add(plan(each).with(each, true));
      }
    }
    return plans;
  }

  /**
   * @throws HalveException if no calibration text is named
   */
  void requireText(String option) {
    if (calibration == null) {
      throw new HalveException(option + " measures on text; name it with --calibration FILE");
    }
  }

  private CalibrationSettings calibration() {
    return new CalibrationSettings(
        calibration,
        calibrationRows == null ? CalibrationSettings.ROWS : calibrationRows,
        calibrationLength == null ? CalibrationSettings.LENGTH : calibrationLength,
        seed == null ? 0 : seed);
  }
}
