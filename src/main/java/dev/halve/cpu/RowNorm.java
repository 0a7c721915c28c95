package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import jdk.incubator.vector.FloatVector;

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
    int whole = hidden / LANES * LANES;
    for (int token = 0; token < tokens; token++) {
      long at = token * (long) hidden * Float.BYTES;
      long row = out + at;
      float mean = sum(x + at, residual == 0 ? 0 : residual + at, row, whole, hidden) / hidden;
      float variance = squares(row, mean, whole, hidden) / hidden;
      float reciprocal = (float) (1 / Math.sqrt(variance + epsilon));
      scale(row, mean, reciprocal, gamma, beta, whole, hidden);
    }
  }

  /** {@code out = a + b + c}, all {@code [hidden]}. */
  static void sum(long a, long b, long c, long out, int hidden) {
    int whole = hidden / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) {
      long at = i * (long) Float.BYTES;
      FloatVector sum = Memory.vector(a + at).add(Memory.vector(b + at));
      Memory.setVector(out + at, sum.add(Memory.vector(c + at)));
    }
    for (int i = whole; i < hidden; i++) {
      long at = i * (long) Float.BYTES;
      float sum = Memory.getFloat(a + at) + Memory.getFloat(b + at);
      Memory.setFloat(out + at, sum + Memory.getFloat(c + at));
    }
  }

  /** Writes {@code x + residual} to {@code out} and returns its sum. */
  private static float sum(long x, long residual, long out, int whole, int hidden) {
    FloatVector total = FloatVector.zero(FLOATS);
    for (int i = 0; i < whole; i += LANES) {
      long at = i * (long) Float.BYTES;
      FloatVector s = Memory.vector(x + at);
      if (residual != 0) {
        s = s.add(Memory.vector(residual + at));
      }
      Memory.setVector(out + at, s);
      total = total.add(s);
    }
    float sum = VectorMath.sum(total);
    for (int i = whole; i < hidden; i++) {
      long at = i * (long) Float.BYTES;
      float s = Memory.getFloat(x + at) + (residual == 0 ? 0 : Memory.getFloat(residual + at));
      Memory.setFloat(out + at, s);
      sum += s;
    }
    return sum;
  }

  private static float squares(long row, float mean, int whole, int hidden) {
    FloatVector squares = FloatVector.zero(FLOATS);
    for (int i = 0; i < whole; i += LANES) {
      FloatVector d = Memory.vector(row + i * (long) Float.BYTES).sub(mean);
      squares = d.fma(d, squares);
    }
    float sum = VectorMath.sum(squares);
    for (int i = whole; i < hidden; i++) {
      float d = Memory.getFloat(row + i * (long) Float.BYTES) - mean;
      sum = Math.fma(d, d, sum);
    }
    return sum;
  }

  private static void scale(
      long row, float mean, float reciprocal, long gamma, long beta, int whole, int hidden) {
    for (int i = 0; i < whole; i += LANES) {
      long at = i * (long) Float.BYTES;
      FloatVector normalized = Memory.vector(row + at).sub(mean).mul(reciprocal);
      Memory.setVector(
          row + at, normalized.fma(Memory.vector(gamma + at), Memory.vector(beta + at)));
    }
    for (int i = whole; i < hidden; i++) {
      long at = i * (long) Float.BYTES;
      float normalized = (Memory.getFloat(row + at) - mean) * reciprocal;
      Memory.setFloat(
          row + at, Math.fma(normalized, Memory.getFloat(gamma + at), Memory.getFloat(beta + at)));
    }
  }
}
