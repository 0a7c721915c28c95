package dev.halve.engine;

/**
 * Settings of the AdamW optimizer (Loshchilov and Hutter, 2019), as torch.optim.AdamW has them.
 *
 * @param learningRate of this step
 * @param weightDecay of every parameter, biases and norms too, apart from its gradient
 * @param maxNorm gradients are scaled down so that their global L2 norm is at most this; infinite
 *     for no clipping
 * @param maskedKeep what a step leaves of a masked weight: 0 holds it, and its moments, at exactly
 *     zero; above, it is trained like any other and multiplied by this after the update (masked
 *     weights that fade, Hu et al., arXiv 2407.20584)
 * @param maskedDecay what a masked weight adds of itself to its gradient, clipped before that: the
 *     lambda of SR-STE (Zhou et al., arXiv 2102.04010), for parameters that are trained straight
 *     through; with a {@code maskedKeep} of 1
 */
public record AdamW(
    double learningRate,
    double beta1,
    double beta2,
    double epsilon,
    double weightDecay,
    double maxNorm,
    double maskedKeep,
    double maskedDecay) {
  /** Masked weights are held at zero. */
  public AdamW(
      double learningRate,
      double beta1,
      double beta2,
      double epsilon,
      double weightDecay,
      double maxNorm) {
    this(learningRate, beta1, beta2, epsilon, weightDecay, maxNorm, 0, 0);
  }

  /** The tutorial's: betas 0.9 and 0.999, epsilon 1e-8, no decay, gradients clipped at 1. */
  public static AdamW withLearningRate(double learningRate) {
    return new AdamW(learningRate, 0.9, 0.999, 1e-8, 0, 1.0);
  }
}
