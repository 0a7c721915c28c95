package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import dev.halve.core.Tensor;
import dev.halve.engine.DeviceBatch;
import java.lang.foreign.ValueLayout;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorOperators;

/**
 * The losses with their gradients; see {@code Device.spanLoss}, {@code Device.distillationLoss} and
 * {@code Device.hiddenLoss}.
 */
final class CpuLosses {
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;
  private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT;

  /** Of hidden states; fixed, since the cut decides how sums round. */
  private static final int PART_ELEMENTS = 1 << 16;

  private final ThreadTeam team;

  CpuLosses(ThreadTeam team) {
    this.team = team;
  }

  void spanLoss(Tensor logits, DeviceBatch batch, float weight, Tensor dLogits, Tensor loss) {
    int[] rowOffsets = batch.host().rowOffsets();
    int counted = 0;
    for (int row = 0; row < batch.rows(); row++) {
      counted += counts(batch, row) ? 1 : 0;
    }
    dLogits.segment().fill((byte) 0);
    double total = 0;
    for (int row = 0; row < batch.rows(); row++) {
      if (counts(batch, row)) {
        int length = batch.host().rowLength(row);
        float half = weight * 0.5f / counted;
        int start = position(batch.starts(), row);
        int end = position(batch.ends(), row);
        total += crossEntropy(logits, dLogits, rowOffsets[row], length, 0, start, half);
        total += crossEntropy(logits, dLogits, rowOffsets[row], length, 1, end, half);
      }
    }
    loss.setFloat(0, (float) (loss.getFloat(0) + total));
  }

  private static int position(Tensor positions, int row) {
    return positions.segment().getAtIndex(INT, row);
  }

  private static boolean counts(DeviceBatch batch, int row) {
    int length = batch.host().rowLength(row);
    int start = position(batch.starts(), row);
    int end = position(batch.ends(), row);
    return start >= 0 && start < length && end >= 0 && end < length;
  }

  private static double crossEntropy(
      Tensor logits, Tensor dLogits, int first, int length, int column, int target, float weight) {
    float max = Float.NEGATIVE_INFINITY;
    for (int i = 0; i < length; i++) {
      max = Math.max(max, logits.segment().getAtIndex(FLOAT, 2L * (first + i) + column));
    }
    double sum = 0;
    for (int i = 0; i < length; i++) {
      sum += Math.exp(logits.segment().getAtIndex(FLOAT, 2L * (first + i) + column) - max);
    }
    for (int i = 0; i < length; i++) {
      long at = 2L * (first + i) + column;
      double probability = Math.exp(logits.segment().getAtIndex(FLOAT, at) - max) / sum;
      dLogits
          .segment()
          .setAtIndex(FLOAT, at, (float) (weight * (probability - (i == target ? 1 : 0))));
    }
    float score = logits.segment().getAtIndex(FLOAT, 2L * (first + target) + column);
    return weight * (Math.log(sum) + max - score);
  }

  void distillationLoss(
      Tensor logits,
      Tensor teacher,
      DeviceBatch batch,
      float temperature,
      float weight,
      Tensor dLogits,
      Tensor loss) {
    double[] losses = new double[2 * batch.rows()];
    double scale = 0.5 * weight / batch.rows();
    team.run(
        losses.length,
        (part, member) -> {
          int first = batch.host().rowOffsets()[part / 2];
          int length = batch.host().rowLength(part / 2);
          losses[part] =
              divergence(
                  logits, teacher, dLogits, 2L * first + part % 2, length, temperature, scale);
        });
    double total = 0;
    for (double each : losses) {
      total += each;
    }
    loss.setFloat(0, (float) (loss.getFloat(0) + total));
  }

  /**
   * The divergence over one row of one of two columns, times {@code scale * temperature^2}; its
   * gradient is added.
   *
   * @param at of the row's first element; the next is two on
   */
  private static double divergence(
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

  void hiddenLoss(
      Tensor student,
      Tensor teacher,
      DeviceBatch batch,
      float weight,
      Tensor dStudent,
      Tensor loss) {
    long elements = batch.host().tokens() * student.extent(1);
    int parts = Math.toIntExact(Math.ceilDiv(elements, PART_ELEMENTS));
    double[] squares = new double[2 * parts];
    team.run(
        parts,
        (part, member) -> {
          long from = (long) part * PART_ELEMENTS;
          long to = Math.min(elements, from + PART_ELEMENTS);
          squares[2 * part] = squaredError(student, teacher, from, to);
          squares[2 * part + 1] = VectorMath.squares(teacher.segment(), from, to);
        });
    double error = 0;
    double norm = 0;
    for (int part = 0; part < parts; part++) {
      error += squares[2 * part];
      norm += squares[2 * part + 1];
    }
    float factor = (float) (2 * weight / norm);
    team.run(
        parts,
        (part, member) -> {
          long from = (long) part * PART_ELEMENTS;
          long to = Math.min(elements, from + PART_ELEMENTS);
          addError(student, teacher, factor, dStudent, from, to);
        });
    loss.setFloat(0, (float) (loss.getFloat(0) + weight * error / norm));
  }

  private static double squaredError(Tensor a, Tensor b, long from, long to) {
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

  /** {@code gradient += factor * (a - b)}. */
  private static void addError(
      Tensor a, Tensor b, float factor, Tensor gradient, long from, long to) {
    for (long i = from; i < to; i += LANES) {
      FloatVector d = VectorMath.load(a.segment(), i, to).sub(VectorMath.load(b.segment(), i, to));
      FloatVector sum = VectorMath.load(gradient.segment(), i, to).add(d.mul(factor));
      VectorMath.store(sum, gradient.segment(), i, to);
    }
  }
}
