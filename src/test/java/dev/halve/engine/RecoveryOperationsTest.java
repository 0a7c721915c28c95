package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;
import java.util.function.DoubleSupplier;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

/**
 * What brings a pruned model back, operation by operation: losses against formulas in double
 * precision, gradients against their differences, masks and the optimizer element by element.
 */
class RecoveryOperationsTest {
  private static final float TEMPERATURE = 2;
  private static final float WEIGHT = 0.7f;

  private final Device device = Devices.open("cpu");
  private final Pool pool = device.openPool();
  private final Workspace workspace = new Workspace(device);
  private final Random24 random = new Random24(41);
  private final BertConfig config = new BertConfig(23, 12, 2, 3, 20, 40, 2, 1e-12f, 0f, 0f);

  @AfterEach
  void close() {
    workspace.close();
    pool.close();
    device.close();
  }

  /** The row by row formula: {@code T^2 sum_i t_i (log t_i - log s_i)} of softened softmaxes. */
  private static double divergence(double[] student, double[] teacher) {
    double studentSum = 0;
    double teacherSum = 0;
    for (int i = 0; i < student.length; i++) {
      studentSum += Math.exp(student[i] / TEMPERATURE);
      teacherSum += Math.exp(teacher[i] / TEMPERATURE);
    }
    double sum = 0;
    for (int i = 0; i < student.length; i++) {
      double t = Math.exp(teacher[i] / TEMPERATURE) / teacherSum;
      double s = Math.exp(student[i] / TEMPERATURE) / studentSum;
      sum += t * Math.log(t / s);
    }
    return TEMPERATURE * TEMPERATURE * sum;
  }

  private static double distillation(double[] student, Tensor teacher, PackedBatch batch) {
    double total = 0;
    for (int row = 0; row < batch.rows(); row++) {
      for (int column = 0; column < 2; column++) {
        double[] s = new double[batch.rowLength(row)];
        double[] t = new double[s.length];
        for (int i = 0; i < s.length; i++) {
          int at = 2 * (batch.rowOffsets()[row] + i) + column;
          s[i] = student[at];
          t[i] = teacher.getFloat(at);
        }
        total += divergence(s, t) / 2;
      }
    }
    return WEIGHT * total / batch.rows();
  }

  private static double[] doubles(Tensor tensor) {
    double[] values = new double[(int) tensor.elements()];
    for (int i = 0; i < values.length; i++) {
      values[i] = tensor.getFloat(i);
    }
    return values;
  }

  /** The central difference of a formula of {@code values} in one of them. */
  private static double difference(double[] values, int at, DoubleSupplier formula) {
    double h = 1e-5;
    double kept = values[at];
    values[at] = kept + h;
    double up = formula.getAsDouble();
    values[at] = kept - h;
    double down = formula.getAsDouble();
    values[at] = kept;
    return (up - down) / (2 * h);
  }

  @Test
  void theDistillationLossIsItsFormulaAndItsGradientTheDifference() {
    PackedBatch batch = random.batch(config, 5, 1, 13);
    DeviceBatch onDevice = DeviceBatch.upload(workspace, batch);
    Tensor student = random.normal(device, pool, 2, batch.tokens(), 2);
    Tensor teacher = random.normal(device, pool, 2, batch.tokens(), 2);
    Tensor dStudent = random.normal(device, pool, 1, batch.tokens(), 2);
    float[] before = dStudent.toFloatArray();
    Tensor loss = pool.allocate(DType.F32, 1);
    loss.setFloat(0, 3);
    device.distillationLoss(student, teacher, onDevice, TEMPERATURE, WEIGHT, dStudent, loss);

    double[] values = doubles(student);
    double expected = distillation(values, teacher, batch);
    assertThat(expected).isPositive();
    assertThat((double) loss.getFloat(0)).isCloseTo(3 + expected, Offset.offset(2e-6));
    for (int i = 0; i < values.length; i++) {
      double slope = difference(values, i, () -> distillation(values, teacher, batch));
      assertThat((double) dStudent.getFloat(i) - before[i]).isCloseTo(slope, Offset.offset(1e-6));
    }
  }

  @Test
  void aStudentThatIsItsTeacherHasNoDistillationLoss() {
    PackedBatch batch = random.batch(config, 9);
    Tensor logits = random.normal(device, pool, 2, 9, 2);
    Tensor dLogits = pool.allocate(DType.F32, 9, 2);
    Tensor loss = pool.allocate(DType.F32, 1);
    device.distillationLoss(
        logits, logits, DeviceBatch.upload(workspace, batch), TEMPERATURE, 1, dLogits, loss);
    assertThat(loss.getFloat(0)).isZero();
    assertThat(dLogits.toFloatArray()).containsOnly(0f);
  }

  @Test
  void theHiddenLossIsTheRelativeSquaredErrorAndItsGradientTheDifference() {
    PackedBatch batch = random.batch(config, 5, 6);
    Tensor student = random.normal(device, pool, 1, 11, 12);
    Tensor teacher = random.normal(device, pool, 1, 11, 12);
    Tensor dStudent = random.normal(device, pool, 1, 11, 12);
    float[] before = dStudent.toFloatArray();
    Tensor loss = pool.allocate(DType.F32, 1);
    device.hiddenLoss(
        student, teacher, DeviceBatch.upload(workspace, batch), WEIGHT, dStudent, loss);

    double[] values = doubles(student);
    DoubleSupplier formula =
        () -> {
          double error = 0;
          double norm = 0;
          for (int i = 0; i < values.length; i++) {
            error += Math.pow(values[i] - teacher.getFloat(i), 2);
            norm += Math.pow(teacher.getFloat(i), 2);
          }
          return WEIGHT * error / norm;
        };
    assertThat((double) loss.getFloat(0)).isCloseTo(formula.getAsDouble(), Offset.offset(2e-6));
    for (int i = 0; i < values.length; i++) {
      assertThat((double) dStudent.getFloat(i) - before[i])
          .isCloseTo(difference(values, i, formula), Offset.offset(1e-6));
    }
  }

  @Test
  void aMaskKeepsTheTwoLargestOfFourAndTheFirstAmongEquals() {
    float[] weights = {1, -3, 2, 0.5f, 0, 0, 0, 0, -1, 1, -1, 1, 4, 1e-9f, -5, 5};
    Tensor weight = pool.allocate(DType.F32, 2, 8);
    for (int i = 0; i < weights.length; i++) {
      weight.setFloat(i, weights[i]);
    }
    Tensor mask = pool.allocate(DType.U8, 2, 8);
    device.chooseMask(weight, mask);
    assertThat(mask.segment().toArray(ValueLayout.JAVA_BYTE))
        .containsExactly(0, 1, 1, 0, 1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1);
  }

  @Test
  void straightThroughGradientsReachTheDenseWeightAndMaskedOnesDecay() {
    int n = 77;
    Tensor value = random.normal(device, pool, 1, n);
    Parameter parameter = new Parameter("w", value, value);
    Parameter.prepareTraining(pool, List.of(parameter));
    Tensor mask = pool.allocate(DType.U8, n);
    for (int i = 0; i < n; i++) {
      mask.segment().set(ValueLayout.JAVA_BYTE, i, (byte) (i % 2));
    }
    parameter.setMask(mask);
    parameter.trainStraightThrough(pool);
    device.round(parameter);
    double[] p = doubles(value);
    double[] m = new double[n];
    double[] v = new double[n];
    double lambda = 0.3;
    double maxNorm = 2;
    AdamW settings = new AdamW(1e-2, 0.9, 0.999, 1e-8, 0, maxNorm, 1, lambda);
    Tensor norm = pool.allocate(DType.F32, 1);
    for (int step = 1; step <= 10; step++) {
      double[] compute = doubles(parameter.compute());
      double[] dense = doubles(value);
      for (int i = 0; i < n; i++) {
        assertThat(compute[i]).isEqualTo(i % 2 == 0 ? 0 : dense[i]);
      }
      random.fill(device, parameter.gradient(), 0, 1);
      double[] g = doubles(parameter.gradient());
      double length = Math.sqrt(Arrays.stream(g).map(each -> each * each).sum());
      for (int i = 0; i < n; i++) {
        double sum = g[i] * Math.min(1, maxNorm / length) + (i % 2 == 0 ? lambda * p[i] : 0);
        m[i] = 0.9 * m[i] + 0.1 * sum;
        v[i] = 0.999 * v[i] + 0.001 * sum * sum;
        double deviation = Math.sqrt(v[i] / (1 - Math.pow(0.999, step))) + 1e-8;
        p[i] -= 1e-2 * m[i] / (1 - Math.pow(0.9, step)) / deviation;
      }
      device.adamW(List.of(parameter), settings, step, norm);
      assertThat((double) norm.getFloat(0)).isCloseTo(length, Offset.offset(1e-5 * length));
    }
    double[] found = doubles(value);
    for (int i = 0; i < n; i++) {
      assertThat(found[i]).isCloseTo(p[i], Offset.offset(1e-5));
    }
  }

  /** A step by hand: the loss's gradient is taken at the pruned weight, and moves the dense one. */
  @Test
  void aModelTrainedStraightThroughIsDifferentiatedWhereItIsPruned() {
    PackedBatch batch =
        new PackedBatch(new int[] {1, 5, 7, 2, 3}, new int[] {0, 0, 1, 1, 1}, new int[] {0, 5});
    try (BertForQuestionAnswering dense = PretrainedModel.random(device, config, 3);
        BertForQuestionAnswering pruned = PretrainedModel.random(device, config, 3)) {
      for (BertForQuestionAnswering model : List.of(dense, pruned)) {
        for (Linear linear : model.bert().linears()) {
          try (Arena arena = Arena.ofConfined()) {
            linear.setMask(Tensor.allocate(arena, DType.U8, linear.weight().shape().extents()));
            linear.chooseMask();
            if (model == dense) {
              linear.trainStraightThrough();
              continue;
            }
            Tensor weight = linear.weight(arena);
            Tensor mask = linear.mask(arena);
            for (long i = 0; i < weight.elements(); i++) {
              weight.setFloat(i, mask.segment().get(ValueLayout.JAVA_BYTE, i) * weight.getFloat(i));
            }
            linear.setWeight(weight);
          }
        }
        model.prepareTraining();
        DeviceBatch onDevice = DeviceBatch.upload(workspace, batch, new int[] {1}, new int[] {3});
        Tensor loss = pool.allocate(DType.F32, 1);
        model.forwardBackward(Pass.training(workspace, onDevice, 1), null, null, 1, loss);
      }
      for (int i = 0; i < dense.parameters().size(); i++) {
        Parameter through = dense.parameters().get(i);
        assertThat(through.gradient().toFloatArray())
            .as(through.name())
            .containsExactly(pruned.parameters().get(i).gradient().toFloatArray());
      }
      assertThat(dense.bert().linears().getFirst().weight(Arena.ofAuto()).toFloatArray())
          .doesNotContain(0f);
    }
  }

  @Test
  void maskedWeightsThatFadeAreTrainedAndShrink() {
    int n = 77;
    Tensor value = random.normal(device, pool, 1, n);
    Parameter parameter = new Parameter("w", value, value);
    Parameter.prepareTraining(pool, List.of(parameter));
    Tensor mask = pool.allocate(DType.U8, n);
    double[] p = doubles(value);
    double[] m = new double[n];
    double[] v = new double[n];
    for (int i = 0; i < n; i++) {
      mask.segment().set(ValueLayout.JAVA_BYTE, i, (byte) (i % 2));
    }
    parameter.setMask(mask);
    AdamW settings = new AdamW(1e-2, 0.9, 0.999, 1e-8, 0, Double.POSITIVE_INFINITY, 0.9, 0);
    Tensor norm = pool.allocate(DType.F32, 1);
    for (int step = 1; step <= 10; step++) {
      random.fill(device, parameter.gradient(), 0, 1);
      double[] g = doubles(parameter.gradient());
      for (int i = 0; i < n; i++) {
        m[i] = 0.9 * m[i] + 0.1 * g[i];
        v[i] = 0.999 * v[i] + 0.001 * g[i] * g[i];
        double deviation = Math.sqrt(v[i] / (1 - Math.pow(0.999, step))) + 1e-8;
        p[i] -= 1e-2 * m[i] / (1 - Math.pow(0.9, step)) / deviation;
        p[i] *= i % 2 == 0 ? 0.9 : 1;
      }
      device.adamW(List.of(parameter), settings, step, norm);
    }
    for (int i = 0; i < n; i++) {
      assertThat((double) value.getFloat(i)).isCloseTo(p[i], Offset.offset(2e-5));
    }
  }

  @Test
  void aBatchInALargerShapeIsFilledUpWithRowsThatCountNothing() {
    PackedBatch batch = random.batch(config, 7, 12);
    int[] answers = {3, 11};
    BatchShape larger = new BatchShape(40, 5, 12);
    int[] integers = DeviceBatch.layOut(larger, batch, answers, answers);
    assertThat(integers).hasSize(3 * 40 + 3 * 5 + 2);
    int[] offsets = Arrays.copyOfRange(integers, 120, 126);
    assertThat(offsets).containsExactly(0, 7, 19, 31, 40, 40);
    assertThat(integers[126]).isEqualTo(19);
    assertThat(Arrays.copyOfRange(integers, 127, 132)).containsExactly(3, 11, -1, -1, -1);
  }
}
