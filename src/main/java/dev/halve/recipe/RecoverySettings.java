package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Distillation;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * How a pruned model is brought back, beside training it under its mask: learning from the dense
 * model it was pruned from, and masks that are chosen while it trains.
 *
 * @param labelWeight of the loss of the labels; 0 learns from unlabelled text
 * @param logitWeight of the divergence from the dense model's answer distributions
 * @param hiddenWeight of the relative squared error of the hidden states
 * @param temperature that softens the distributions
 * @param maskedKeep what a step leaves of a masked weight while masks are still chosen; 0 for masks
 *     that are fixed from the start (fading weights: Hu et al., arXiv 2407.20584)
 * @param maskSteps after so many steps the masks are chosen anew, by magnitude
 * @param maskShare the share of the steps in which they are
 */
@JsonNaming(SnakeCaseStrategy.class)
public record RecoverySettings(
    double labelWeight,
    double logitWeight,
    double hiddenWeight,
    double temperature,
    double maskedKeep,
    int maskSteps,
    double maskShare) {
  /** Labels alone, under a fixed mask: the tutorial's own. */
  public static final RecoverySettings PLAIN = new RecoverySettings(1, 0, 0, 1, 0, 50, 0.5);

  /** Mostly from the dense model. */
  public static final RecoverySettings DISTILLATION =
      new RecoverySettings(0.1, 0.9, 5, 2, 0, 50, 0.5);

  /** From the dense model's answers alone, not from its hidden states. */
  public static final RecoverySettings ANSWER_DISTILLATION =
      new RecoverySettings(0.1, 0.9, 0, 2, 0, 50, 0.5);

  /** The first, with masks chosen during the first half. */
  public static final RecoverySettings FADING_DISTILLATION =
      new RecoverySettings(0.1, 0.9, 5, 2, 0.98, 50, 0.5);

  public RecoverySettings {
    Settings.require(labelWeight >= 0, "label weight", "0 or more", labelWeight);
    Settings.require(logitWeight >= 0, "logit weight", "0 or more", logitWeight);
    Settings.require(hiddenWeight >= 0, "hidden weight", "0 or more", hiddenWeight);
    Settings.require(temperature > 0, "temperature", "above 0", temperature);
    Settings.require(
        maskedKeep >= 0 && maskedKeep < 1, "masked keep", "0 or more, below 1", maskedKeep);
    Settings.require(maskSteps >= 1, "mask steps", "1 or more", maskSteps);
    Settings.require(maskShare >= 0 && maskShare <= 1, "mask share", "0 to 1", maskShare);
    if (labelWeight + logitWeight + hiddenWeight == 0) {
      throw new HalveException("one of label, logit and hidden weight must be above 0");
    }
  }

  /** Whether it learns from the dense model. */
  public boolean distils() {
    return logitWeight > 0 || hiddenWeight > 0;
  }

  /** Whether masks are chosen during the training. */
  public boolean choosesMasks() {
    return maskedKeep > 0;
  }

  Distillation distillation(BertForQuestionAnswering teacher) {
    return new Distillation(
        teacher,
        (float) labelWeight,
        (float) logitWeight,
        (float) hiddenWeight,
        (float) temperature);
  }

  /** What a step, counted from 1, leaves of masked weights. */
  double maskedKeep(int step, int totalSteps) {
    return choosesMasks() && step <= lastChoosingStep(totalSteps) ? maskedKeep : 0;
  }

  /** Whether masks are chosen before a step: every so often, and once more before they are kept. */
  boolean choosesMasksBefore(int step, int totalSteps) {
    int last = lastChoosingStep(totalSteps);
    return choosesMasks() && (step <= last ? (step - 1) % maskSteps == 0 : step == last + 1);
  }

  private int lastChoosingStep(int totalSteps) {
    return (int) Math.floor(maskShare * totalSteps);
  }
}
