package dev.halve.recipe;

import dev.halve.core.io.Json;
import dev.halve.report.Results;
import dev.halve.report.SeedSummary;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;

/** The whole recipe again and again, with one seed after the other. */
public final class SeedRuns {
  private SeedRuns() {}

  /**
   * Runs the recipe into {@code seed-SEED} in the folder for each seed, and leaves mean and spread
   * in {@code seeds.json}.
   *
   * @param settings whose seed is the first
   * @param seeds how many
   * @param resume go on where an earlier run stopped; what is finished is not run again
   * @throws StoppedException if the listener asked for it
   */
  public static SeedSummary run(
      TutorialSettings settings, int seeds, Path out, boolean resume, Progress progress) {
    Settings.require(seeds >= 1, "seeds", "1 or more", seeds);
    Output.require(out);
    List<Long> used = new ArrayList<>();
    List<Results> runs = new ArrayList<>();
    for (int i = 0; i < seeds; i++) {
      long seed = settings.fineTune().seed() + i;
      Path folder = out.resolve("seed-" + seed);
      runs.add(Tutorial.run(settings.withSeed(seed), folder, resume, progress));
      used.add(seed);
    }
    SeedSummary summary = SeedSummary.of(used, runs);
    Json.write(out.resolve("seeds.json"), summary);
    return summary;
  }
}
