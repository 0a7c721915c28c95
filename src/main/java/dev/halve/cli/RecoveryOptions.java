package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.recipe.MaskSettings;
import dev.halve.recipe.PruningSettings;
import dev.halve.recipe.RecoverySettings;
import picocli.CommandLine.Option;

/** What brings a pruned model back, beside training it under its mask. */
final class RecoveryOptions {
  /** The options of which one makes masks be chosen in training. */
  static final String CHOICES = "--masked-keep, --masked-decay or --sparsity-schedule";

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
      names = "--masked-decay",
      paramLabel = "LAMBDA",
      description =
          "Chooses masks in training by SR-STE: passes read the pruned weight, its gradient goes"
              + " to the dense one, and masked weights decay by lambda, such as 6e-5; best with"
              + " --mask-steps 1.")
  private Double maskedDecay;

  @Option(
      names = "--sparsity-schedule",
      paramLabel = "NAME",
      description =
          "Prunes in training, more and more blocks: one_shot (all behind --mask-share of the"
              + " steps), cubic or linear (up to there, each --mask-steps).")
  private MaskSettings.Growth growth;

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

  /**
   * @param pattern of masks that are chosen in training
   */
  RecoverySettings over(RecoverySettings base, PruningSettings pattern) {
    RecoverySettings settings =
        new RecoverySettings(
            labelWeight == null ? base.labelWeight() : labelWeight,
            logitWeight == null ? base.logitWeight() : logitWeight,
            hiddenWeight == null ? base.hiddenWeight() : hiddenWeight,
            temperature == null ? base.temperature() : temperature,
            masks(base.masks(), pattern));
    if (!settings.masks().chosen() && (maskSteps != null || maskShare != null)) {
      throw new HalveException(
          (maskSteps != null ? "--mask-steps" : "--mask-share")
              + " does nothing without "
              + CHOICES);
    }
    if (settings.logitWeight() == 0 && temperature != null) {
      throw new HalveException("--temperature does nothing without --logit-weight");
    }
    return settings;
  }

  private MaskSettings masks(MaskSettings base, PruningSettings pattern) {
    return new MaskSettings(
        maskedKeep == null ? base.keep() : maskedKeep,
        maskedDecay == null ? base.decay() : maskedDecay,
        growth == null ? base.growth() : growth,
        maskSteps == null ? base.steps() : maskSteps,
        maskShare == null ? base.share() : maskShare,
        pattern);
  }
}
