package dev.halve.cli;

import dev.halve.recipe.EvaluationSettings;
import picocli.CommandLine.Option;

/** How answers are found. */
final class EvaluationOptions {
  @Option(
      names = "--eval-batch-size",
      paramLabel = "ROWS",
      description = "Rows of an evaluation batch.")
  private Integer batchSize;

  @Option(
      names = "--n-best",
      paramLabel = "N",
      description = "Starts and ends that are tried for an answer.")
  private Integer nBest;

  @Option(
      names = "--max-answer-tokens",
      paramLabel = "TOKENS",
      description = "Longer spans are no answers.")
  private Integer maxAnswerTokens;

  EvaluationSettings over(EvaluationSettings base) {
    return new EvaluationSettings(
        batchSize == null ? base.batchSize() : batchSize,
        nBest == null ? base.nBest() : nBest,
        maxAnswerTokens == null ? base.maxAnswerTokens() : maxAnswerTokens);
  }
}
