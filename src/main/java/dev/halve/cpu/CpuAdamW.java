package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import dev.halve.engine.AdamW;
import dev.halve.engine.Parameter;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/** The optimizer's arithmetic on a stretch of one parameter; see {@code Device.adamW}. */
final class CpuAdamW {
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

  private CpuAdamW() {}

  /** Which parameter a part belongs to, given each parameter's first part. */
  static int parameterOf(int[] firstPart, int part) {
    int found = Arrays.binarySearch(firstPart, part);
    return found >= 0 ? found : -found - 2;
  }

  /**
   * Zeroes gradient, value and moments where the mask is zero, if it is held; returns the
   * gradient's sum of squares.
   */
  static double maskAndSquare(Parameter parameter, long from, int count, boolean hold) {
    long end = Math.min(parameter.value().elements(), from + count);
    MemorySegment gradient = parameter.gradient().segment();
    if (hold && parameter.mask() != null) {
      MemorySegment mask = parameter.mask().segment();
      for (long i = from; i < end; i++) {
        if (mask.get(ValueLayout.JAVA_BYTE, i) == 0) {
          gradient.setAtIndex(FLOAT, i, 0);
          parameter.value().segment().setAtIndex(FLOAT, i, 0);
          parameter.firstMoment().segment().setAtIndex(FLOAT, i, 0);
          parameter.secondMoment().segment().setAtIndex(FLOAT, i, 0);
        }
      }
    }
    double total = 0;
    // Short sums in F32, their total in F64.
    for (long i = from; i < end; ) {
      FloatVector sum = FloatVector.zero(FLOATS);
      for (long stop = Math.min(end, i + 64L * LANES); i < stop; i += LANES) {
        FloatVector g = VectorMath.load(gradient, i, end);
        sum = g.lanewise(VectorOperators.FMA, g, sum);
      }
      total += VectorMath.sum(sum);
    }
    return total;
  }

  /** Writes the value without what the mask prunes to the compute copy. */
  static void copyUnmasked(Parameter parameter, long from, int count) {
    long end = Math.min(parameter.value().elements(), from + count);
    MemorySegment value = parameter.value().segment();
    MemorySegment compute = parameter.compute().segment();
    MemorySegment.copy(value, FLOAT, 4 * from, compute, FLOAT, 4 * from, end - from);
    if (parameter.mask() != null) {
      MemorySegment mask = parameter.mask().segment();
      for (long i = from; i < end; i++) {
        if (mask.get(ValueLayout.JAVA_BYTE, i) == 0) {
          compute.setAtIndex(FLOAT, i, 0);
        }
      }
    }
  }

  /** Updates value, compute copy and moments, and zeroes the gradient. */
  static void update(
      Parameter parameter, long from, int count, AdamW settings, int step, double clip) {
    long end = Math.min(parameter.value().elements(), from + count);
    MemorySegment value = parameter.value().segment();
    MemorySegment gradient = parameter.gradient().segment();
    MemorySegment first = parameter.firstMoment().segment();
    MemorySegment second = parameter.secondMoment().segment();
    float beta1 = (float) settings.beta1();
    float beta2 = (float) settings.beta2();
    float decay = (float) (1 - settings.learningRate() * settings.weightDecay());
    float stepSize = (float) (settings.learningRate() / (1 - Math.pow(settings.beta1(), step)));
    float correction = (float) (1 / Math.sqrt(1 - Math.pow(settings.beta2(), step)));
    float epsilon = (float) settings.epsilon();
    float scale = (float) clip;
    if (parameter.mask() != null && settings.maskedDecay() > 0) {
      decayMasked(parameter, from, end, (float) settings.maskedDecay() / scale);
    }
    for (long i = from; i < end; i += LANES) {
      FloatVector g = VectorMath.load(gradient, i, end).mul(scale);
      FloatVector m = VectorMath.load(first, i, end).mul(beta1).add(g.mul(1 - beta1));
      FloatVector v = VectorMath.load(second, i, end).mul(beta2).add(g.mul(g).mul(1 - beta2));
      FloatVector deviation = v.lanewise(VectorOperators.SQRT).mul(correction).add(epsilon);
      FloatVector p = VectorMath.load(value, i, end).mul(decay).sub(m.mul(stepSize).div(deviation));
      VectorMath.store(m, first, i, end);
      VectorMath.store(v, second, i, end);
      VectorMath.store(p, value, i, end);
      VectorMath.store(FloatVector.zero(FLOATS), gradient, i, end);
    }
    if (parameter.mask() != null && settings.maskedKeep() > 0) {
      float keep = (float) settings.maskedKeep();
      MemorySegment mask = parameter.mask().segment();
      for (long i = from; i < end; i++) {
        if (mask.get(ValueLayout.JAVA_BYTE, i) == 0) {
          value.setAtIndex(FLOAT, i, value.getAtIndex(FLOAT, i) * keep);
        }
      }
    }
    if (parameter.compute() != parameter.value()) {
      copyUnmasked(parameter, from, count);
    }
  }

  /** Adds a share of each masked weight to its gradient. */
  private static void decayMasked(Parameter parameter, long from, long end, float share) {
    MemorySegment mask = parameter.mask().segment();
    MemorySegment value = parameter.value().segment();
    MemorySegment gradient = parameter.gradient().segment();
    for (long i = from; i < end; i++) {
      if (mask.get(ValueLayout.JAVA_BYTE, i) == 0) {
        float g = gradient.getAtIndex(FLOAT, i);
        gradient.setAtIndex(FLOAT, i, g + share * value.getAtIndex(FLOAT, i));
      }
    }
  }
}
