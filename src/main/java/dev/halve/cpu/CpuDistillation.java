package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import dev.halve.core.Tensor;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/**
 * The arithmetic of learning from a teacher on a stretch of elements, and of choosing masks; see
 * {@code Device.distillationLoss}, {@code Device.hiddenLoss} and {@code Device.chooseMask}.
 */
final class CpuDistillation {
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

  private CpuDistillation() {}

  /**
   * The divergence over one row of one of two columns, times {@code scale * temperature^2}; its
   * gradient is added.
   *
   * @param at of the row's first element; the next is two on
   */
  static double logits(
      Tensor student,
      Tensor teacher,
      Tensor dStudent,
      long at,
      int length,
      float temperature,
      double scale) {
    double studentSum = logSumExp(student, at, length, temperature);
    double teacherSum = logSumExp(teacher, at, length, temperature);
    double divergence = 0;
    for (int i = 0; i < length; i++) {
      long index = at + 2L * i;
      double s = student.getFloat(index) / temperature - studentSum;
      double t = teacher.getFloat(index) / temperature - teacherSum;
      divergence += Math.exp(t) * (t - s);
      double gradient = scale * temperature * (Math.exp(s) - Math.exp(t));
      dStudent.setFloat(index, (float) (dStudent.getFloat(index) + gradient));
    }
    return scale * temperature * temperature * divergence;
  }

  private static double logSumExp(Tensor x, long at, int length, float temperature) {
    double max = Double.NEGATIVE_INFINITY;
    for (int i = 0; i < length; i++) {
      max = Math.max(max, x.getFloat(at + 2L * i) / temperature);
    }
    double sum = 0;
    for (int i = 0; i < length; i++) {
      sum += Math.exp(x.getFloat(at + 2L * i) / temperature - max);
    }
    return max + Math.log(sum);
  }

  static double squaredError(Tensor a, Tensor b, long from, long to) {
    double total = 0;
    // Short sums in F32, their total in F64.
    for (long i = from; i < to; ) {
      FloatVector sum = FloatVector.zero(FLOATS);
      for (long stop = Math.min(to, i + 64L * LANES); i < stop; i += LANES) {
        FloatVector d =
            VectorMath.load(a.segment(), i, to).sub(VectorMath.load(b.segment(), i, to));
        sum = d.lanewise(VectorOperators.FMA, d, sum);
      }
      total += VectorMath.sum(sum);
    }
    return total;
  }

  static double squares(Tensor x, long from, long to) {
    double total = 0;
    for (long i = from; i < to; ) {
      FloatVector sum = FloatVector.zero(FLOATS);
      for (long stop = Math.min(to, i + 64L * LANES); i < stop; i += LANES) {
        FloatVector v = VectorMath.load(x.segment(), i, to);
        sum = v.lanewise(VectorOperators.FMA, v, sum);
      }
      total += VectorMath.sum(sum);
    }
    return total;
  }

  /** {@code gradient += factor * (a - b)}. */
  static void addError(Tensor a, Tensor b, float factor, Tensor gradient, long from, long to) {
    for (long i = from; i < to; i += LANES) {
      FloatVector d = VectorMath.load(a.segment(), i, to).sub(VectorMath.load(b.segment(), i, to));
      FloatVector sum = VectorMath.load(gradient.segment(), i, to).add(d.mul(factor));
      VectorMath.store(sum, gradient.segment(), i, to);
    }
  }

  /** Keeps the two largest magnitudes of four, the first among equals. */
  static void chooseTwo(Tensor weight, Tensor mask, long at) {
    MemorySegment w = weight.segment();
    for (int i = 0; i < 4; i++) {
      float here = Math.abs(w.getAtIndex(FLOAT, at + i));
      int larger = 0;
      for (int j = 0; j < 4; j++) {
        float other = Math.abs(w.getAtIndex(FLOAT, at + j));
        if (other > here || (other == here && j < i)) {
          larger++;
        }
      }
      mask.segment().set(ValueLayout.JAVA_BYTE, at + i, (byte) (larger < 2 ? 1 : 0));
    }
  }
}
