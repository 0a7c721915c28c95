package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.core.sparsify.NOfM;
import dev.halve.core.sparsify.SparseGptSparsifier;
import java.util.List;
import java.util.Locale;
import java.util.stream.Stream;

/**
 * How a model is pruned, once.
 *
 * @param weightNorm what magnitude pruning is told; the other methods take the pattern
 * @param pattern of Wanda and SparseGPT; transposable masks are always 2:4
 * @param permute whether channels are brought into an order in which 2:4 loses less
 * @param damping of SparseGPT, a share of the Hessian's mean diagonal
 * @param calibration the text that activations come from; null for methods that need none
 * @param keepDense names of linear layers that are left as they are, with * and ? as in a shell
 * @param denseBudget the share of the encoder's linear weights that may stay dense beside them, in
 *     the layers that suffer most; 0 for none
 * @param denseRows the share of every pruned weight's rows that stay dense, those that pruning
 *     hurts most; 0 for none
 */
public record PruningPlan(
    PruningMethod method,
    PruningSettings weightNorm,
    NOfM pattern,
    boolean permute,
    double damping,
    CalibrationSettings calibration,
    List<String> keepDense,
    double denseBudget,
    double denseRows) {
  public PruningPlan {
    Settings.require(damping > 0 && damping <= 1, "damping", "above 0, at most 1", damping);
    keepDense = List.copyOf(keepDense);
    Settings.require(
        denseBudget >= 0 && denseBudget < 1, "dense budget", "0 or more, below 1", denseBudget);
    Settings.require(
        denseRows >= 0 && denseRows < 1, "dense rows", "0 or more, below 1", denseRows);
    if (denseBudget > 0 && calibration == null) {
      throw new HalveException(
          "a dense budget goes to the layers that suffer most; name text to measure that on");
    }
    if (method.calibrates() && calibration == null) {
      throw new HalveException(
          method
              + " needs text to calibrate on; name a SQuAD file or plain text to calibrate with");
    }
    if (method == PruningMethod.TRANSPOSABLE && !pattern.equals(NOfM.TWO_OF_FOUR)) {
      throw new HalveException("transposable masks are 2:4, found the pattern " + pattern);
    }
    boolean semiStructured =
        method == PruningMethod.MAGNITUDE
            ? weightNorm.equals(PruningSettings.SEMI_STRUCTURED)
            : pattern.equals(NOfM.TWO_OF_FOUR);
    if ((permute || denseRows > 0) && !semiStructured) {
      throw new HalveException(
          (permute ? "channels are permuted" : "rows are kept dense")
              + " for 2:4 alone; leave the pattern at 2:4");
    }
  }

  /** Magnitude pruning, with nothing else. */
  public static PruningPlan magnitude(PruningSettings weightNorm) {
    return new PruningPlan(
        PruningMethod.MAGNITUDE,
        weightNorm,
        NOfM.TWO_OF_FOUR,
        false,
        SparseGptSparsifier.DAMPING,
        null,
        List.of(),
        0,
        0);
  }

  /** The same plan by another method. */
  public PruningPlan with(PruningMethod other, boolean permuted) {
    return new PruningPlan(
        other,
        weightNorm,
        pattern,
        permuted,
        damping,
        calibration,
        keepDense,
        denseBudget,
        denseRows);
  }

  /** The same plan with a share of every weight's rows left dense. */
  public PruningPlan keepingRowsDense(double share) {
    return new PruningPlan(
        method, weightNorm, pattern, permute, damping, calibration, keepDense, denseBudget, share);
  }

  /** The same plan on another text. */
  PruningPlan withCalibration(CalibrationSettings other) {
    return new PruningPlan(
        method, weightNorm, pattern, permute, damping, other, keepDense, denseBudget, denseRows);
  }

  /** The same plan with names in place of the budget. */
  PruningPlan keepingDense(List<String> names) {
    List<String> all = Stream.concat(keepDense.stream(), names.stream()).toList();
    return new PruningPlan(
        method, weightNorm, pattern, permute, damping, calibration, all, 0, denseRows);
  }

  /** Whether the plan cannot be carried out without text. */
  boolean needsText() {
    return method.calibrates() || denseBudget > 0;
  }

  /** {@code sparsegpt}, or {@code sparsegpt, permuted}. */
  public String label() {
    return method
        + (permute ? ", permuted" : "")
        + (denseRows > 0
            ? String.format(Locale.ROOT, ", %.1f%% of rows dense", 100 * denseRows)
            : "");
  }
}
