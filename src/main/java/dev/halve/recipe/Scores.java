package dev.halve.recipe;

/** Probabilities from logits. */
final class Scores {
  private Scores() {}

  /** Softmax, or the sigmoid of each. */
  static double[] of(float[] logits, boolean each) {
    double largest = Double.NEGATIVE_INFINITY;
    for (float logit : logits) {
      largest = Math.max(largest, logit);
    }
    double[] scores = new double[logits.length];
    double sum = 0;
    for (int i = 0; i < logits.length; i++) {
      scores[i] = each ? 1 / (1 + Math.exp(-logits[i])) : Math.exp(logits[i] - largest);
      sum += scores[i];
    }
    for (int i = 0; i < scores.length && !each; i++) {
      scores[i] /= sum;
    }
    return scores;
  }
}
