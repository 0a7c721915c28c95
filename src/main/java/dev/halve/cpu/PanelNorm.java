package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import jdk.incubator.vector.FloatVector;

/** Layer normalisation of a panel's tokens, for inference; all lanes are tokens of their own. */
final class PanelNorm {
  private PanelNorm() {}

  /**
   * {@code out = (s - mean) / sqrt(variance + epsilon) * gamma + beta} over each token of {@code s
   * = x + residual}. The variance is that of the differences from the mean, so that a large mean
   * costs no digits.
   *
   * @param x {@code [features, width]}; may be {@code out}
   * @param residual {@code [features, width]}, or 0 for none; may be {@code out}
   * @param gamma {@code [features]}
   * @param beta {@code [features]}
   * @param width tokens of the panel
   */
  static void run(
      long x,
      long residual,
      long gamma,
      long beta,
      float epsilon,
      long out,
      int features,
      int width) {
    for (int token = 0; token < width; token += LANES) {
      long at = token * (long) Float.BYTES;
      column(
          x + at,
          residual == 0 ? 0 : residual + at,
          gamma,
          beta,
          epsilon,
          out + at,
          features,
          width * (long) Float.BYTES);
    }
  }

  private static void column(
      long x,
      long residual,
      long gamma,
      long beta,
      float epsilon,
      long out,
      int features,
      long pitch) {
    FloatVector sum = FloatVector.zero(FLOATS);
    for (int i = 0; i < features; i++) {
      FloatVector s = Memory.vector(x + i * pitch);
      if (residual != 0) {
        s = s.add(Memory.vector(residual + i * pitch));
      }
      Memory.setVector(out + i * pitch, s);
      sum = sum.add(s);
    }
    FloatVector mean = sum.div(features);
    FloatVector squares = FloatVector.zero(FLOATS);
    for (int i = 0; i < features; i++) {
      FloatVector d = Memory.vector(out + i * pitch).sub(mean);
      squares = d.fma(d, squares);
    }
    FloatVector deviation = squares.div(features).add(epsilon).sqrt();
    FloatVector reciprocal = FloatVector.broadcast(FLOATS, 1f).div(deviation);
    for (int i = 0; i < features; i++) {
      long at = i * (long) Float.BYTES;
      FloatVector factor = reciprocal.mul(Memory.getFloat(gamma + at));
      FloatVector beside = FloatVector.broadcast(FLOATS, Memory.getFloat(beta + at));
      FloatVector d = Memory.vector(out + i * pitch).sub(mean);
      Memory.setVector(out + i * pitch, d.fma(factor, beside));
    }
  }
}
