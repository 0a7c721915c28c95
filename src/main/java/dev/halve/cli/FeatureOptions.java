package dev.halve.cli;

import dev.halve.recipe.FeatureSettings;
import picocli.CommandLine.Option;

/** How text becomes rows of tokens. */
final class FeatureOptions {
  @Option(
      names = "--max-length",
      paramLabel = "TOKENS",
      description = "Tokens a row at the most; the context is cut to fit.")
  private Integer maxLength;

  @Option(
      names = "--doc-stride",
      paramLabel = "TOKENS",
      description = "Tokens that neighbouring windows of a long context share.")
  private Integer docStride;

  FeatureSettings over(FeatureSettings base) {
    return new FeatureSettings(
        maxLength == null ? base.maxLength() : maxLength,
        docStride == null ? base.docStride() : docStride);
  }
}
