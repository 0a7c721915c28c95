package dev.halve.cpu;

import java.lang.foreign.MemorySegment;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorShuffle;
import jdk.incubator.vector.VectorSpecies;

/** Elementwise functions on vectors of floats, each with its error against double precision. */
final class VectorMath {
  static final VectorSpecies<Float> FLOATS = FloatVector.SPECIES_PREFERRED;
  static final VectorSpecies<Integer> INTS = IntVector.SPECIES_PREFERRED;
  static final ByteOrder ORDER = ByteOrder.nativeOrder();
  static final int LANES = FLOATS.length();

  static final float LOG2_E = 1.44269504088896341f;
  // ln 2 in two parts, the first with trailing zeros, so that n * LN2_HIGH is exact.
  static final float LN2_HIGH = 0.693359375f;
  static final float LN2_LOW = -2.12194440e-4f;
  private static final float INVERSE_SQRT_2PI = 0.3989422804014327f;

  // Each brings the upper half of what is left to be summed onto the lower half. Constants of their
  // own, not an array: the JIT boxes the vectors of a shuffle that it does not know.
  private static final VectorShuffle<Float> FOLD_32 = fold(32);
  private static final VectorShuffle<Float> FOLD_16 = fold(16);
  private static final VectorShuffle<Float> FOLD_8 = fold(8);
  private static final VectorShuffle<Float> FOLD_4 = fold(4);
  private static final VectorShuffle<Float> FOLD_2 = fold(2);
  private static final VectorShuffle<Float> FOLD_1 = fold(1);

  private VectorMath() {}

  private static VectorShuffle<Float> fold(int half) {
    return VectorShuffle.iota(FLOATS, half, 1, true);
  }

  /** e to the x, relative error below 2e-7; 0 below -87.3 and e^88 above 88. NaN stays NaN. */
  static FloatVector exp(FloatVector x) {
    FloatVector clamped = x.min(88f).max(-88f);
    // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
    FloatVector n = clamped.mul(LOG2_E).add(12582912f).sub(12582912f);
    FloatVector r = n.lanewise(VectorOperators.FMA, -LN2_HIGH, clamped);
    r = n.lanewise(VectorOperators.FMA, -LN2_LOW, r);
    // The Taylor series of (e^r - 1 - r) / r^2 on |r| <= ln 2 / 2: the remainder is below 1e-8.
    FloatVector p = FloatVector.broadcast(FLOATS, 1f / 5040);
    p = p.lanewise(VectorOperators.FMA, r, FloatVector.broadcast(FLOATS, 1f / 720));
    p = p.lanewise(VectorOperators.FMA, r, FloatVector.broadcast(FLOATS, 1f / 120));
    p = p.lanewise(VectorOperators.FMA, r, FloatVector.broadcast(FLOATS, 1f / 24));
    p = p.lanewise(VectorOperators.FMA, r, FloatVector.broadcast(FLOATS, 1f / 6));
    p = p.lanewise(VectorOperators.FMA, r, FloatVector.broadcast(FLOATS, 0.5f));
    FloatVector power = p.mul(r).lanewise(VectorOperators.FMA, r, r).add(1f);
    IntVector exponent = (IntVector) n.convert(VectorOperators.F2I, 0);
    FloatVector scale = exponent.add(127).lanewise(VectorOperators.LSHL, 23).reinterpretAsFloats();
    return power.mul(scale).blend(0f, x.compare(VectorOperators.LT, -87.3f));
  }

  /**
   * The standard normal distribution function at {@code x}, given {@code exp(-x * x / 2)}: absolute
   * error below 2e-7 (Abramowitz and Stegun, 7.1.26).
   */
  private static FloatVector normalCdf(FloatVector x, FloatVector exp) {
    FloatVector z = x.abs().mul(0.70710678f);
    FloatVector t =
        FloatVector.broadcast(FLOATS, 1f).div(z.lanewise(VectorOperators.FMA, 0.3275911f, 1f));
    FloatVector p = FloatVector.broadcast(FLOATS, 1.061405429f);
    p = p.lanewise(VectorOperators.FMA, t, FloatVector.broadcast(FLOATS, -1.453152027f));
    p = p.lanewise(VectorOperators.FMA, t, FloatVector.broadcast(FLOATS, 1.421413741f));
    p = p.lanewise(VectorOperators.FMA, t, FloatVector.broadcast(FLOATS, -0.284496736f));
    p = p.lanewise(VectorOperators.FMA, t, FloatVector.broadcast(FLOATS, 0.254829592f));
    FloatVector upperTail = p.mul(t).mul(exp).mul(0.5f);
    VectorMask<Float> negative = x.compare(VectorOperators.LT, 0f);
    return FloatVector.broadcast(FLOATS, 1f).sub(upperTail).blend(upperTail, negative);
  }

  /**
   * {@code x * cdf(x)}, the erf form of GELU: absolute error below 5e-7 times (1 + |x|). Up to 5.2
   * the distribution function is a half plus {@code x} times a minimax quotient of polynomials in
   * {@code x * x} (own fit, off by 6e-8); beyond, it is 0 or 1.
   */
  static FloatVector gelu(FloatVector x) {
    FloatVector u = x.mul(x);
    FloatVector p = FloatVector.broadcast(FLOATS, 5.840455056e-6f);
    p = p.lanewise(VectorOperators.FMA, u, FloatVector.broadcast(FLOATS, 3.142541356e-4f));
    p = p.lanewise(VectorOperators.FMA, u, FloatVector.broadcast(FLOATS, 5.518678059e-3f));
    p = p.lanewise(VectorOperators.FMA, u, FloatVector.broadcast(FLOATS, 4.959269897e-2f));
    p = p.lanewise(VectorOperators.FMA, u, FloatVector.broadcast(FLOATS, 3.989419174e-1f));
    FloatVector q = FloatVector.broadcast(FLOATS, 5.018868604e-7f);
    q = q.lanewise(VectorOperators.FMA, u, FloatVector.broadcast(FLOATS, 1.127372254e-4f));
    q = q.lanewise(VectorOperators.FMA, u, FloatVector.broadcast(FLOATS, 2.703697211e-3f));
    q = q.lanewise(VectorOperators.FMA, u, FloatVector.broadcast(FLOATS, 3.733937400e-2f));
    q = q.lanewise(VectorOperators.FMA, u, FloatVector.broadcast(FLOATS, 2.909712286e-1f));
    q = q.lanewise(VectorOperators.FMA, u, FloatVector.broadcast(FLOATS, 1f));
    FloatVector cdf = x.mul(p).div(q).add(0.5f);
    return x.mul(cdf)
        .blend(x, x.compare(VectorOperators.GT, 5.2f))
        .blend(0f, x.compare(VectorOperators.LT, -5.2f));
  }

  /** The derivative of {@link #gelu}, {@code cdf(x) + x * pdf(x)}: absolute error below 1e-6. */
  static FloatVector geluDerivative(FloatVector x) {
    FloatVector exp = exp(x.mul(x).mul(-0.5f));
    return x.mul(exp)
        .lanewise(
            VectorOperators.FMA,
            FloatVector.broadcast(FLOATS, INVERSE_SQRT_2PI),
            normalCdf(x, exp));
  }

  /**
   * The sum of the lanes, in one fixed order. {@code reduceLanes} leaves the order open, and does
   * differ between interpreted and compiled code: training would not repeat bit for bit.
   */
  static float sum(FloatVector vector) {
    FloatVector sum = vector;
    if (LANES >= 64) {
      sum = sum.add(sum.rearrange(FOLD_32));
    }
    if (LANES >= 32) {
      sum = sum.add(sum.rearrange(FOLD_16));
    }
    if (LANES >= 16) {
      sum = sum.add(sum.rearrange(FOLD_8));
    }
    if (LANES >= 8) {
      sum = sum.add(sum.rearrange(FOLD_4));
    }
    if (LANES >= 4) {
      sum = sum.add(sum.rearrange(FOLD_2));
    }
    sum = sum.add(sum.rearrange(FOLD_1));
    return sum.lane(0);
  }

  /** Vector at an element index; lanes past {@code end} are zero. */
  static FloatVector load(MemorySegment segment, long index, long end) {
    long left = end - index;
    return left >= LANES
        ? FloatVector.fromMemorySegment(FLOATS, segment, index * 4, ORDER)
        : FloatVector.fromMemorySegment(
            FLOATS, segment, index * 4, ORDER, FLOATS.indexInRange(0, left));
  }

  /** Stores the lanes before {@code end}. */
  static void store(FloatVector vector, MemorySegment segment, long index, long end) {
    long left = end - index;
    if (left >= LANES) {
      vector.intoMemorySegment(segment, index * 4, ORDER);
    } else {
      vector.intoMemorySegment(segment, index * 4, ORDER, FLOATS.indexInRange(0, left));
    }
  }

  /** {@code sum[at + i] += x[from + i]} for {@code count} elements. */
  static void addTo(MemorySegment sum, long at, MemorySegment x, long from, int count) {
    for (int i = 0; i < count; i += LANES) {
      FloatVector value = load(sum, at + i, at + count).add(load(x, from + i, from + count));
      store(value, sum, at + i, at + count);
    }
  }

  /** The sum of squares of elements {@code [from, to)}: short sums in F32, their total in F64. */
  static double squares(MemorySegment x, long from, long to) {
    double total = 0;
    for (long i = from; i < to; ) {
      FloatVector sum = FloatVector.zero(FLOATS);
      for (long stop = Math.min(to, i + 64L * LANES); i < stop; i += LANES) {
        FloatVector v = load(x, i, to);
        sum = v.lanewise(VectorOperators.FMA, v, sum);
      }
      total += sum(sum);
    }
    return total;
  }
}
