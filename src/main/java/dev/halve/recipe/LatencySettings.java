package dev.halve.recipe;

import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * Which forward passes to time.
 *
 * @param batchSizes rows
 * @param seq tokens a row
 * @param warmup passes of each candidate before the clock runs, at least; more while they get
 *     faster, and one alone where it is 0
 * @param repeats timed passes of each candidate, in turn with the others
 * @param maxSeconds for the repeats of one batch size, which end early then but not before the
 *     third, and for its warm-up, likewise
 */
@JsonNaming(SnakeCaseStrategy.class)
public record LatencySettings(
    List<Integer> batchSizes, int seq, int warmup, int repeats, double maxSeconds) {
  /** The tutorial's batch sizes at 384 tokens a row. */
  public static final LatencySettings DEFAULT =
      new LatencySettings(List.of(4, 16, 64, 256), 384, 2, 20, 60);

  public LatencySettings {
    batchSizes = List.copyOf(batchSizes);
    Settings.require(
        batchSizes.stream().allMatch(batch -> batch >= 1),
        "batch sizes",
        "1 or more each",
        batchSizes);
    Settings.require(seq >= 1, "seq", "1 or more", seq);
    Settings.require(warmup >= 0, "warmup", "0 or more", warmup);
    Settings.require(repeats >= 1, "repeats", "1 or more", repeats);
    Settings.require(maxSeconds > 0, "max seconds", "above 0", maxSeconds);
  }

  /** The same with rows of no more than so many tokens. */
  LatencySettings withSeqAtMost(int tokens) {
    return new LatencySettings(batchSizes, Math.min(seq, tokens), warmup, repeats, maxSeconds);
  }
}
