package dev.halve.cli;

import dev.halve.recipe.RecoverySettings;
import picocli.CommandLine.Option;

/** What brings a pruned model back, beside training it under its mask. */
final class RecoveryOptions {
  @Option(
      names = "--label-weight",
      paramLabel = "WEIGHT",
      description = "Of the labels' loss; 0 learns from the dense model alone.")
  private Double labelWeight;

  @Option(
      names = "--logit-weight",
      paramLabel = "WEIGHT",
      description = "Of the divergence from the dense model's answer distributions.")
  private Double logitWeight;

  @Option(
      names = "--hidden-weight",
      paramLabel = "WEIGHT",
      description = "Of the relative squared error of the hidden states.")
  private Double hiddenWeight;

  @Option(
      names = "--temperature",
      paramLabel = "T",
      description = "Softens the answer distributions in the divergence.")
  private Double temperature;

  @Option(
      names = "--masked-keep",
      paramLabel = "SHARE",
      description =
          "Chooses masks in training: what a step leaves of a masked weight, such as 0.98; 0 for"
              + " masks that are fixed.")
  private Double maskedKeep;

  @Option(
      names = "--mask-steps",
      paramLabel = "STEPS",
      description = "Steps from one choice of masks to the next.")
  private Integer maskSteps;

  @Option(
      names = "--mask-share",
      paramLabel = "SHARE",
      description = "Share of the steps in which masks are chosen.")
  private Double maskShare;

  RecoverySettings over(RecoverySettings base) {
    return new RecoverySettings(
        labelWeight == null ? base.labelWeight() : labelWeight,
        logitWeight == null ? base.logitWeight() : logitWeight,
        hiddenWeight == null ? base.hiddenWeight() : hiddenWeight,
        temperature == null ? base.temperature() : temperature,
        maskedKeep == null ? base.maskedKeep() : maskedKeep,
        maskSteps == null ? base.maskSteps() : maskSteps,
        maskShare == null ? base.maskShare() : maskShare);
  }
}
