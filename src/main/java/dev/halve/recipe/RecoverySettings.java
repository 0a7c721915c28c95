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
 * @param masks how they are chosen in training, or fixed
 */
@JsonNaming(SnakeCaseStrategy.class)
public record RecoverySettings(
    double labelWeight,
    double logitWeight,
    double hiddenWeight,
    double temperature,
    MaskSettings masks) {
  /** Labels alone, under a fixed mask: the tutorial's own. */
  public static final RecoverySettings PLAIN = new RecoverySettings(1, 0, 0, 1, MaskSettings.FIXED);

  /** Mostly from the dense model's answers, not from its hidden states. */
  public static final RecoverySettings DISTILLATION =
      new RecoverySettings(0.1, 0.9, 0, 2, MaskSettings.FIXED);

  public RecoverySettings {
    Settings.require(labelWeight >= 0, "label weight", "0 or more", labelWeight);
    Settings.require(logitWeight >= 0, "logit weight", "0 or more", logitWeight);
    Settings.require(hiddenWeight >= 0, "hidden weight", "0 or more", hiddenWeight);
    Settings.require(temperature > 0, "temperature", "above 0", temperature);
    if (labelWeight + logitWeight + hiddenWeight == 0) {
      throw new HalveException("one of label, logit and hidden weight must be above 0");
    }
  }

  /** Whether it learns from the dense model. */
  public boolean distils() {
    return logitWeight > 0 || hiddenWeight > 0;
  }

  Distillation distillation(BertForQuestionAnswering teacher) {
    return new Distillation(
        teacher,
        (float) labelWeight,
        (float) logitWeight,
        (float) hiddenWeight,
        (float) temperature);
  }

  /** The same with other masks. */
  RecoverySettings withMasks(MaskSettings other) {
    return new RecoverySettings(labelWeight, logitWeight, hiddenWeight, temperature, other);
  }
}
