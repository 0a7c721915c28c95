package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.recipe.DataSettings;
import java.nio.file.Path;
import picocli.CommandLine.Option;

/** Which questions. */
final class DataOptions {
  @Option(
      names = "--data",
      paramLabel = "NAME",
      description =
          "synthetic: questions that Halve generates; squad: SQuAD v1.1, downloaded once.")
  private String name;

  @Option(
      names = "--train",
      paramLabel = "FILE",
      description = "Training questions, a file in SQuAD v1.1 format.")
  private Path train;

  @Option(
      names = "--eval",
      paramLabel = "FILE",
      description = "Evaluation questions, a file in SQuAD v1.1 format.")
  private Path eval;

  @Option(
      names = "--max-train",
      paramLabel = "N",
      description = "Only the first N training questions.")
  private Integer maxTrain;

  @Option(
      names = "--max-eval",
      paramLabel = "N",
      description = "Only the first N evaluation questions.")
  private Integer maxEval;

  /** Whether questions were named. */
  boolean named() {
    return name != null || train != null || eval != null;
  }

  /**
   * These settings where something was said, the others where not.
   *
   * @param trains whether the command needs training questions
   * @param evaluates whether it needs evaluation questions
   */
  DataSettings over(DataSettings base, boolean trains, boolean evaluates) {
    boolean files = train != null || eval != null;
    if (files && name != null) {
      throw new HalveException("--data " + name + " and question files exclude each other");
    }
    if (files && (trains && train == null || evaluates && eval == null)) {
      throw new HalveException(
          "%s is missing beside %s"
              .formatted(
                  train == null ? "--train FILE" : "--eval FILE",
                  train == null ? "--eval" : "--train"));
    }
    return new DataSettings(
        files ? "files" : name == null ? base.name() : name,
        files ? train : base.train(),
        files ? eval : base.eval(),
        maxTrain == null ? base.maxTrain() : maxTrain,
        maxEval == null ? base.maxEval() : maxEval);
  }
}
