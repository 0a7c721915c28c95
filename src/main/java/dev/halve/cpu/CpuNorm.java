package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/**
 * Layer normalisation of tokens {@code [from, to)}, forward and backward; see {@code
 * Device.layerNorm}.
 */
final class CpuNorm {
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

  private CpuNorm() {}

  static void forward(
      long from,
      long to,
      int hidden,
      MemorySegment x,
      MemorySegment residual,
      MemorySegment gamma,
      MemorySegment beta,
      float epsilon,
      MemorySegment sum,
      MemorySegment statistics,
      MemorySegment out) {
    for (long token = from; token < to; token++) {
      long at = token * hidden;
      long end = at + hidden;
      FloatVector total = FloatVector.zero(FLOATS);
      // The sum passes through `out`, which is written last: x, sum and out may be one buffer.
      for (long i = at; i < end; i += LANES) {
        FloatVector s = VectorMath.load(x, i, end);
        if (residual != null) {
          s = s.add(VectorMath.load(residual, i, end));
        }
        if (sum != null) {
          VectorMath.store(s, sum, i, end);
        }
        VectorMath.store(s, out, i, end);
        total = total.add(s);
      }
      float mean = VectorMath.sum(total) / hidden;
      FloatVector squares = FloatVector.zero(FLOATS);
      for (long i = at; i < end; i += LANES) {
        FloatVector d =
            VectorMath.load(out, i, end).sub(mean).blend(0f, FLOATS.indexInRange(i, end).not());
        squares = d.lanewise(VectorOperators.FMA, d, squares);
      }
      float variance = VectorMath.sum(squares) / hidden;
      float reciprocal = (float) (1 / Math.sqrt(variance + epsilon));
      for (long i = at; i < end; i += LANES) {
        FloatVector normalized = VectorMath.load(out, i, end).sub(mean).mul(reciprocal);
        VectorMath.store(
            normalized.lanewise(
                VectorOperators.FMA,
                VectorMath.load(gamma, i - at, hidden),
                VectorMath.load(beta, i - at, hidden)),
            out,
            i,
            end);
      }
      if (statistics != null) {
        statistics.setAtIndex(FLOAT, 2 * token, mean);
        statistics.setAtIndex(FLOAT, 2 * token + 1, reciprocal);
      }
    }
  }

  /**
   * Writes {@code dSum} and adds to partial sums of {@code dGamma} and {@code dBeta}, each {@code
   * [hidden]}; with the normalised input {@code n} and {@code g = dOut * gamma}: {@code dSum = (g -
   * mean(g) - n * mean(g * n)) / deviation}.
   */
  static void backward(
      long from,
      long to,
      int hidden,
      MemorySegment sum,
      MemorySegment statistics,
      MemorySegment gamma,
      MemorySegment dOut,
      MemorySegment dSum,
      MemorySegment dGamma,
      MemorySegment dBeta) {
    for (long token = from; token < to; token++) {
      long at = token * hidden;
      long end = at + hidden;
      float mean = statistics.getAtIndex(FLOAT, 2 * token);
      float reciprocal = statistics.getAtIndex(FLOAT, 2 * token + 1);
      FloatVector sumG = FloatVector.zero(FLOATS);
      FloatVector sumGn = FloatVector.zero(FLOATS);
      for (long i = at; i < end; i += LANES) {
        FloatVector n = VectorMath.load(sum, i, end).sub(mean).mul(reciprocal);
        FloatVector d = VectorMath.load(dOut, i, end);
        VectorMath.store(
            d.lanewise(VectorOperators.FMA, n, VectorMath.load(dGamma, i - at, hidden)),
            dGamma,
            i - at,
            hidden);
        VectorMath.store(VectorMath.load(dBeta, i - at, hidden).add(d), dBeta, i - at, hidden);
        FloatVector g = d.mul(VectorMath.load(gamma, i - at, hidden));
        sumG = sumG.add(g);
        sumGn = g.lanewise(VectorOperators.FMA, n, sumGn);
      }
      float meanG = VectorMath.sum(sumG) / hidden;
      float meanGn = VectorMath.sum(sumGn) / hidden;
      for (long i = at; i < end; i += LANES) {
        FloatVector n = VectorMath.load(sum, i, end).sub(mean).mul(reciprocal);
        FloatVector g = VectorMath.load(dOut, i, end).mul(VectorMath.load(gamma, i - at, hidden));
        VectorMath.store(g.sub(meanG).sub(n.mul(meanGn)).mul(reciprocal), dSum, i, end);
      }
    }
  }
}
