package dev.halve.engine;

/**
 * Learning from a teacher of the same shape (Hinton et al., 2015; hidden states as in TinyBERT,
 * Jiao et al., 2020). The loss is {@code labelWeight} times the loss of the labels, plus {@code
 * logitWeight * temperature^2} times the Kullback-Leibler divergence of the model's distribution
 * over a row's tokens from the teacher's, both softened by the temperature, averaged over start and
 * end and over rows, plus {@code hiddenWeight} times the mean over layers of the squared error of
 * the hidden states relative to the teacher's squared norm.
 *
 * @param teacher on the same device; only read
 * @param labelWeight 0 to learn from unlabelled text
 */
public record Distillation(
    BertForQuestionAnswering teacher,
    float labelWeight,
    float logitWeight,
    float hiddenWeight,
    float temperature) {
  public Distillation {
    if (!(labelWeight >= 0 && logitWeight >= 0 && hiddenWeight >= 0 && temperature > 0)) {
      throw new IllegalArgumentException(
          "weights %s, %s and %s must not be negative, temperature %s must be positive"
              .formatted(labelWeight, logitWeight, hiddenWeight, temperature));
    }
  }
}
