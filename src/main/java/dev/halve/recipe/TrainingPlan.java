package dev.halve.recipe;

import dev.halve.core.HalveException;
import java.nio.file.Path;

/**
 * How a model is trained, once, and on what.
 *
 * @param data the questions to learn; those to be asked too, where the training is scored
 * @param recovery what else is done to bring a pruned model back; where it chooses masks, the model
 *     is the dense one
 * @param teacher the dense model that the recovery learns from, fine-tuned on such questions; null
 *     where it learns from none
 * @param text rows without labels, for the teacher to say what there is to learn from them: plain
 *     text, or a file in SQuAD's format; null for none
 */
public record TrainingPlan(
    DataSettings data,
    FeatureSettings features,
    TrainingSettings training,
    RecoverySettings recovery,
    String teacher,
    Path text) {
  /**
   * @throws HalveException if the recovery or the text needs a teacher, and there is none
   */
  public TrainingPlan {
    if (recovery.distils() && teacher == null) {
      throw new HalveException("distillation needs a dense model to learn from; name the teacher");
    }
    if (text != null && !recovery.distils()) {
      throw new HalveException("text without labels needs a dense model; name the teacher");
    }
  }

  /** From labels alone, under fixed masks. */
  public TrainingPlan(DataSettings data, FeatureSettings features, TrainingSettings training) {
    this(data, features, training, RecoverySettings.PLAIN, null, null);
  }

  /** The questions by which the training is scored in between; null where it is not. */
  Questions scoring(EvaluationSettings evaluation) {
    return training.evalSteps() == 0 ? null : new Questions(data, features, evaluation);
  }
}
