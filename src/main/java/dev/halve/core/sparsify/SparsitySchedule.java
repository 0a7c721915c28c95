package dev.halve.core.sparsify;

import dev.halve.core.HalveException;
import java.util.function.IntToDoubleFunction;

/**
 * How much is pruned at which step of a training, with the meaning of torch.ao.pruning's
 * schedulers: before each step {@link WeightNormSparsifier#setSparsityLevel} takes the level, and
 * {@link Sparsifier#step} chooses the masks anew wherever {@link #changesAt} says so.
 */
public sealed interface SparsitySchedule {
  /**
   * The share of blocks that are pruned.
   *
   * @param step of the training, from 0
   */
  double level(int step);

  /** Whether a step's level is another than that of the step before; the first one's always is. */
  default boolean changesAt(int step) {
    return step == 0 || level(step) != level(step - 1);
  }

  /** Everything at once, at one step; nothing before. */
  record OneShot(double level, int at) implements SparsitySchedule {
    public OneShot {
      requireLevel(level);
      if (at < 0) {
        throw new HalveException("pruning at step " + at + "; expected 0 or more");
      }
    }

    @Override
    public double level(int step) {
      return step < at ? 0 : level;
    }
  }

  /**
   * From one level to another, fast at first: {@code s = s1 + (s0 - s1) · (1 - (t - t0) / (n ·
   * Δt))³}, constant before and behind. Zhu and Gupta, "To prune, or not to prune", arXiv
   * 1710.01878.
   *
   * @param initial the level up to {@code first}
   * @param last the level from {@code first + updates · every} on
   * @param first the step at which it begins to rise
   * @param every steps between two updates, in which the level stays
   * @param updates how many there are
   */
  record Cubic(double initial, double last, int first, int every, int updates)
      implements SparsitySchedule {
    public Cubic {
      requireLevel(initial);
      requireLevel(last);
      if (first < 0 || every < 1 || updates < 1) {
        throw new HalveException(
            "%d updates every %d steps from step %d on; expected 1 or more, 1 or more, 0 or more"
                .formatted(updates, every, first));
      }
    }

    @Override
    public double level(int step) {
      long done = Math.clamp(Math.floorDiv((long) step - first, every), 0, updates);
      double left = 1 - (double) done / updates;
      return last + (initial - last) * left * left * left;
    }
  }

  /**
   * A base level times whatever a function of the step says.
   *
   * @param base the level where the function is 1
   */
  record Lambda(double base, IntToDoubleFunction factor) implements SparsitySchedule {
    public Lambda {
      requireLevel(base);
    }

    /**
     * @throws HalveException if the product is no level
     */
    @Override
    public double level(int step) {
      double level = base * factor.applyAsDouble(step);
      if (!(level >= 0 && level <= 1)) {
        throw new HalveException(
            "the schedule gives step %d a level of %s; expected 0 to 1".formatted(step, level));
      }
      return level;
    }
  }

  private static void requireLevel(double level) {
    if (!(level >= 0 && level <= 1)) {
      throw new HalveException("a sparsity level of " + level + "; expected 0 to 1");
    }
  }
}
