package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.core.sparsify.SparsitySchedule;
import java.util.stream.Stream;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * How masks are chosen while a model trains. There are three ways, of which at most one is taken:
 * masked weights that fade, masked weights that passes leave out but gradients reach, and masks
 * that grow. A training that takes one starts from the dense model.
 *
 * @param keep what a step leaves of a masked weight while masks are chosen; 0 for none of that
 *     (fading weights: Hu et al., arXiv 2407.20584)
 * @param decay lambda of SR-STE (Zhou et al., arXiv 2102.04010): passes read the pruned weight, its
 *     gradient goes straight through to the dense one, and a masked weight adds lambda times itself
 *     to its gradient; 0 for none of that
 * @param growth how the share of pruned blocks grows to the pattern's; null for none of that. What
 *     is pruned is held at zero
 * @param steps after so many steps the masks are chosen anew, by magnitude
 * @param share the share of the steps in which they are; then they stay, and hold zeros
 * @param pattern that masks grow to; the other ways know 2:4 alone
 */
@JsonNaming(SnakeCaseStrategy.class)
public record MaskSettings(
    double keep, double decay, Growth growth, int steps, double share, PruningSettings pattern) {
  /** How the share of pruned blocks grows over the steps in which masks are chosen. */
  public enum Growth {
    /** All at once, behind the last of them. */
    ONE_SHOT,
    /** Fast at first: {@link SparsitySchedule.Cubic}. */
    CUBIC,
    /** By so much each time. */
    LINEAR
  }

  /** Masks that stay as they are. */
  public static final MaskSettings FIXED =
      new MaskSettings(0, 0, null, 50, 0.5, PruningSettings.SEMI_STRUCTURED);

  public MaskSettings {
    Settings.require(keep >= 0 && keep < 1, "masked keep", "0 or more, below 1", keep);
    Settings.require(decay >= 0 && decay <= 1, "masked decay", "0 to 1", decay);
    Settings.require(steps >= 1, "mask steps", "1 or more", steps);
    Settings.require(share >= 0 && share <= 1, "mask share", "0 to 1", share);
    if (Stream.of(keep > 0, decay > 0, growth != null).filter(way -> way).count() > 1) {
      throw new HalveException(
          "masked weights fade, decay or are pruned by a schedule: masked keep, masked decay and"
              + " sparsity schedule exclude each other");
    }
    if ((keep > 0 || decay > 0) && !pattern.equals(PruningSettings.SEMI_STRUCTURED)) {
      throw new HalveException(
          "masks are chosen in training for the 2:4 pattern only, but by a schedule; leave the"
              + " pruning options away");
    }
  }

  /** The same for another pattern. */
  MaskSettings withPattern(PruningSettings other) {
    return new MaskSettings(keep, decay, growth, steps, share, other);
  }

  /** Whether masks are chosen during the training. */
  public boolean chosen() {
    return keep > 0 || decay > 0 || growth != null;
  }

  /** Whether passes read the pruned weight while its gradient goes to the dense one. */
  boolean straightThrough() {
    return decay > 0;
  }

  /** What a step, counted from 1, leaves of masked weights. */
  double keep(int step, int totalSteps) {
    if (!choosing(step, totalSteps)) {
      return 0;
    }
    return straightThrough() ? 1 : keep;
  }

  /** What a step adds of masked weights to their gradients. */
  double decay(int step, int totalSteps) {
    return choosing(step, totalSteps) ? decay : 0;
  }

  /** Whether masked weights are no zeros yet behind a step. */
  boolean choosing(int step, int totalSteps) {
    return (keep > 0 || decay > 0) && step <= lastChoosingStep(totalSteps);
  }

  /** Whether masks are chosen before a step: every so often, and once more before they are kept. */
  boolean choosesBefore(int step, int totalSteps) {
    if (growth != null) {
      return schedule(totalSteps).changesAt(step - 1);
    }
    int last = lastChoosingStep(totalSteps);
    return chosen() && (step <= last ? (step - 1) % steps == 0 : step == last + 1);
  }

  /** The share of blocks that are pruned at a step, where masks grow. */
  SparsitySchedule schedule(int totalSteps) {
    double level = pattern.sparsityLevel();
    // Whatever the settings, the last step finds the masks full grown.
    int last = Math.min(lastChoosingStep(totalSteps), totalSteps - 1);
    int every = Math.min(steps, last);
    if (every == 0) {
      return new SparsitySchedule.OneShot(level, 0);
    }
    int updates = last / every;
    return switch (growth) {
      case ONE_SHOT -> new SparsitySchedule.OneShot(level, last);
      case CUBIC -> new SparsitySchedule.Cubic(0, level, 0, every, updates);
      case LINEAR ->
          new SparsitySchedule.Lambda(
              level, step -> Math.min(1, Math.floorDiv(step, every) / (double) updates));
    };
  }

  private int lastChoosingStep(int totalSteps) {
    return (int) Math.floor(share * totalSteps);
  }
}
