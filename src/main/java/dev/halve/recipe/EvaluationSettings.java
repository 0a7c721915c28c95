package dev.halve.recipe;

import dev.halve.qa.Answers;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * How answers are found.
 *
 * @param batchSize rows a batch
 * @param nBest starts and ends that are tried, the likeliest first
 * @param maxAnswerTokens longer spans are no answers
 */
@JsonNaming(SnakeCaseStrategy.class)
public record EvaluationSettings(int batchSize, int nBest, int maxAnswerTokens) {
  /** The tutorial's. */
  public static final EvaluationSettings DEFAULT =
      new EvaluationSettings(32, Answers.N_BEST, Answers.MAX_ANSWER_TOKENS);

  public EvaluationSettings {
    Settings.require(batchSize >= 1, "evaluation batch size", "1 or more", batchSize);
    Settings.require(nBest >= 1, "n best", "1 or more", nBest);
    Settings.require(maxAnswerTokens >= 1, "max answer tokens", "1 or more", maxAnswerTokens);
  }
}
