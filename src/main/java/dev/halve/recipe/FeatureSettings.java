package dev.halve.recipe;

import dev.halve.qa.Example;
import dev.halve.qa.QaFeatures;
import dev.halve.qa.Tokenizer;
import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * How questions and contexts become rows of tokens.
 *
 * @param maxLength tokens a row at the most; longer contexts are cut
 * @param docStride tokens that neighbouring windows of one context share
 */
@JsonNaming(SnakeCaseStrategy.class)
public record FeatureSettings(int maxLength, int docStride) {
  /** The tutorial's: 384 tokens, no shared ones. */
  public static final FeatureSettings DEFAULT = new FeatureSettings(384, 0);

  public FeatureSettings {
    Settings.require(maxLength >= 8, "max length", "8 or more", maxLength);
    Settings.require(
        docStride >= 0 && docStride < maxLength,
        "doc stride",
        "0 or more, below max length",
        docStride);
  }

  /** The rows of tokens of some questions. */
  QaFeatures rows(Tokenizer tokenizer, List<Example> examples) {
    return QaFeatures.of(tokenizer, examples, maxLength, docStride);
  }
}
