package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/** Layer normalisation of a sum, for inference: all arguments are addresses of packed rows. */
final class RowNorm {
  private RowNorm() {}

  /**
   * {@code out = (s - mean) / sqrt(variance + epsilon) * gamma + beta} over each token of {@code s
   * = x + residual}. The variance is that of the differences from the mean, so that a large mean
   * costs no digits.
   *
   * @param x {@code [tokens, hidden]}; may be {@code out}
   * @param residual {@code [tokens, hidden]}, or 0 for none; may be {@code out}
   * @param gamma {@code [hidden]}
   * @param beta {@code [hidden]}
   */
  static void run(
      long x,
      long residual,
      long gamma,
      long beta,
      float epsilon,
      long out,
      int tokens,
      int hidden) {
    for (int token = 0; token < tokens; token++) {
      long at = token * (long) hidden * Float.BYTES;
      long from = (out + at) / Float.BYTES;
      float mean = sum(x + at, residual == 0 ? 0 : residual + at, from, hidden) / hidden;
      float variance = squares(from, mean, hidden) / hidden;
      float reciprocal = (float) (1 / Math.sqrt(variance + epsilon));
      scale(from, mean, reciprocal, gamma / Float.BYTES, beta / Float.BYTES, hidden);
    }
  }

  /** {@code out = a + b + c}, all {@code [hidden]}. */
  static void sum(long a, long b, long c, long out, int hidden) {
    long from = out / Float.BYTES;
    long end = from + hidden;
    long toA = a / Float.BYTES - from;
    long toB = b / Float.BYTES - from;
    long toC = c / Float.BYTES - from;
    for (long i = from; i < end; i += LANES) {
      FloatVector sum =
          VectorMath.load(Memory.ALL, i + toA, end + toA)
              .add(VectorMath.load(Memory.ALL, i + toB, end + toB))
              .add(VectorMath.load(Memory.ALL, i + toC, end + toC));
      VectorMath.store(sum, Memory.ALL, i, end);
    }
  }

  /** Writes {@code x + residual} to {@code out} and returns its sum. */
  private static float sum(long x, long residual, long out, int hidden) {
    FloatVector total = FloatVector.zero(FLOATS);
    long end = out + hidden;
    long toX = x / Float.BYTES - out;
    long toResidual = residual / Float.BYTES - out;
    for (long i = out; i < end; i += LANES) {
      FloatVector s = VectorMath.load(Memory.ALL, i + toX, end + toX);
      if (residual != 0) {
        s = s.add(VectorMath.load(Memory.ALL, i + toResidual, end + toResidual));
      }
      VectorMath.store(s, Memory.ALL, i, end);
      total = total.add(s);
    }
    return VectorMath.sum(total);
  }

  private static float squares(long from, float mean, int hidden) {
    FloatVector squares = FloatVector.zero(FLOATS);
    long end = from + hidden;
    long i = from;
    for (; i + LANES <= end; i += LANES) {
      FloatVector d = VectorMath.load(Memory.ALL, i, end).sub(mean);
      squares = d.lanewise(VectorOperators.FMA, d, squares);
    }
    if (i < end) {
      FloatVector d =
          VectorMath.load(Memory.ALL, i, end)
              .sub(mean)
              .blend(0f, FLOATS.indexInRange(i, end).not());
      squares = d.lanewise(VectorOperators.FMA, d, squares);
    }
    return VectorMath.sum(squares);
  }

  private static void scale(
      long from, float mean, float reciprocal, long gamma, long beta, int hidden) {
    long end = from + hidden;
    for (long i = from; i < end; i += LANES) {
      FloatVector normalized = VectorMath.load(Memory.ALL, i, end).sub(mean).mul(reciprocal);
      VectorMath.store(
          normalized.lanewise(
              VectorOperators.FMA,
              VectorMath.load(Memory.ALL, gamma + i - from, gamma + hidden),
              VectorMath.load(Memory.ALL, beta + i - from, beta + hidden)),
          Memory.ALL,
          i,
          end);
    }
  }
}
