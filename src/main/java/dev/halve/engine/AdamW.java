package dev.halve.engine;

/**
 * Settings of the AdamW optimizer (Loshchilov and Hutter, 2019), as torch.optim.AdamW has them.
 *
 * @param learningRate of this step
 * @param maxNorm gradients are scaled down so that their global L2 norm is at most this; infinite
 *     for no clipping
 */
public record AdamW(
    double learningRate,
    double beta1,
    double beta2,
    double epsilon,
    double weightDecay,
    double maxNorm) {
  /** The tutorial's: betas 0.9 and 0.999, epsilon 1e-8, no decay, gradients clipped at 1. */
  public static AdamW withLearningRate(double learningRate) {
    return new AdamW(learningRate, 0.9, 0.999, 1e-8, 0, 1.0);
  }
}
