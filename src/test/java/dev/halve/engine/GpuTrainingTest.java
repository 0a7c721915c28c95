package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Training on the GPU against the CPU device, which other tests hold to double precision, and
 * against differences of the formula in double precision. Skipped without a GPU.
 */
class GpuTrainingTest {
  private static Device gpu;
  private static Device cpu;

  @BeforeAll
  static void open() {
    gpu = TrainingGpu.open();
    cpu = Devices.open("cpu");
  }

  @AfterAll
  static void close() {
    if (gpu != null) {
      gpu.close();
      cpu.close();
    }
  }

  private static BertConfig config(int hidden, int heads, float dropout) {
    return new BertConfig(61, hidden, 2, heads, 2 * hidden, 512, 2, 1e-12f, dropout, dropout);
  }

  /** Two models of the same weights, which bf16 holds exactly. */
  private record Twins(BertForQuestionAnswering onGpu, BertForQuestionAnswering onCpu)
      implements AutoCloseable {
    static Twins random(BertConfig config, long seed) {
      BertForQuestionAnswering onCpu = new BertForQuestionAnswering(cpu, config);
      BertForQuestionAnswering onGpu = new BertForQuestionAnswering(gpu, config);
      Random random = new Random(seed);
      for (int i = 0; i < onCpu.parameters().size(); i++) {
        Parameter each = onCpu.parameters().get(i);
        double mean = each.name().endsWith("LayerNorm.weight") ? 1 : 0;
        for (long k = 0; k < each.value().elements(); k++) {
          float value = (float) (mean + 0.1 * random.nextGaussian());
          int bits = Float.floatToRawIntBits(value) + 0x8000 & 0xffff0000;
          each.value().setFloat(k, Float.intBitsToFloat(bits));
        }
        Parameter twin = onGpu.parameters().get(i);
        gpu.upload(each.value(), twin.value());
        gpu.round(twin);
      }
      return new Twins(onGpu, onCpu);
    }

    @Override
    public void close() {
      onGpu.close();
      onCpu.close();
    }
  }

  private static double relativeError(float[] found, float[] expected, double floor) {
    double difference = 0;
    double norm = 0;
    for (int i = 0; i < found.length; i++) {
      difference += Math.pow((double) found[i] - expected[i], 2);
      norm += Math.pow(expected[i], 2);
    }
    return Math.sqrt(difference) / Math.max(Math.sqrt(norm), floor);
  }

  @ParameterizedTest
  @CsvSource({"64, 2, 0", "64, 2, 0.2", "128, 2, 0", "128, 2, 0.2"})
  void everyGradientIsTheCpusAndTheFormulas(int hidden, int heads, float dropout) {
    BertConfig config = config(hidden, heads, dropout);
    int seed = 77;
    Random24 random = new Random24(5);
    int[] starts = {1, 0, 40, 300, 129};
    int[] ends = {3, 0, 170, 301, 129};
    PackedBatch batch = random.batch(config, 5, 1, 200, 33, 130);
    try (Twins twins = Twins.random(config, 3);
        Workspace onGpu = new Workspace(gpu);
        Workspace onCpu = new Workspace(cpu);
        Pool gpuPool = gpu.openPool();
        Pool cpuPool = cpu.openPool()) {
      Tensor gpuLoss = gpuPool.allocate(DType.F32, 1);
      Tensor cpuLoss = cpuPool.allocate(DType.F32, 1);
      twins.onGpu.prepareTraining();
      twins.onCpu.prepareTraining();
      DeviceBatch gpuBatch = DeviceBatch.upload(onGpu, batch, starts, ends);
      DeviceBatch cpuBatch = DeviceBatch.upload(onCpu, batch, starts, ends);
      twins.onGpu.forwardBackward(Pass.training(onGpu, gpuBatch, seed), null, null, 1, gpuLoss);
      twins.onCpu.forwardBackward(Pass.training(onCpu, cpuBatch, seed), null, null, 1, cpuLoss);

      ReferenceBert reference =
          new ReferenceBert(config, twins.onCpu.parameters(), batch, true, seed);
      double loss = reference.loss(starts, ends);
      assertThat((double) HostCopy.floats(gpu, gpuLoss)[0])
          .isCloseTo(loss, Offset.offset(1e-2 * loss));
      Random directions = new Random(9);
      for (int i = 0; i < twins.onCpu.parameters().size(); i++) {
        Parameter parameter = twins.onGpu.parameters().get(i);
        float[] found = HostCopy.floats(gpu, parameter.gradient());
        float[] expected = twins.onCpu.parameters().get(i).gradient().toFloatArray();
        // The gradients of a key's bias, which shifts all of a query's scores alike, and of what
        // only shifts all of a row's logits alike, are zero; what is found is rounding. All
        // gradients together are about 6 long.
        double floor = 5e-2;
        assertThat(relativeError(found, expected, floor)).as(parameter.name()).isLessThan(2.5e-2);

        // Along the gradient itself, the change of the loss is the gradient's length.
        double[] values = reference.parameter(parameter.name());
        double[] direction = new double[values.length];
        double length = 0;
        for (int k = 0; k < values.length; k++) {
          direction[k] = expected[k] + 1e-4 * directions.nextGaussian();
          length += direction[k] * direction[k];
        }
        double h = 1e-4 / Math.sqrt(length);
        double[] kept = values.clone();
        double slope = 0;
        for (int k = 0; k < values.length; k++) {
          values[k] = kept[k] + h * direction[k];
        }
        slope += reference.loss(starts, ends);
        for (int k = 0; k < values.length; k++) {
          values[k] = kept[k] - h * direction[k];
        }
        slope -= reference.loss(starts, ends);
        System.arraycopy(kept, 0, values, 0, kept.length);
        double product = 0;
        for (int k = 0; k < values.length; k++) {
          product += found[k] * direction[k];
        }
        double scale = Math.max(Math.sqrt(length), floor) * Math.sqrt(length);
        assertThat(Math.abs(product - slope / (2 * h)) / scale)
            .as("slope along " + parameter.name())
            .isLessThan(2.5e-2);
      }
    }
  }

  private static StepScalars scalars(
      int step, double learningRate, double maskedKeep, double maskedDecay) {
    AdamW optimizer = new AdamW(learningRate, 0.9, 0.999, 1e-8, 0, 1, maskedKeep, maskedDecay);
    return new StepScalars(Dropout.mix(step), optimizer, step);
  }

  /** Batches of a few shapes, each often enough to be recorded and replayed. */
  private static List<PackedBatch> batches(BertConfig config, int count) {
    Random24 random = new Random24(12);
    List<PackedBatch> batches = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      int[] lengths =
          i % 3 == 0
              ? new int[] {20 + i, 7, 40}
              : i % 3 == 1 ? new int[] {64, 64} : new int[] {130, 3, 9, 30 + i};
      batches.add(random.batch(config, lengths));
    }
    return batches;
  }

  /** The sum of the steps' losses. */
  private static float train(
      BertForQuestionAnswering model,
      List<PackedBatch> batches,
      double maskedKeep,
      double maskedDecay) {
    try (TrainingStep step = new TrainingStep(model, null, 400, 8)) {
      for (int i = 0; i < batches.size(); i++) {
        PackedBatch batch = batches.get(i);
        int[] starts = new int[batch.rows()];
        int[] ends = new int[batch.rows()];
        for (int row = 0; row < batch.rows(); row++) {
          starts[row] = batch.rowLength(row) / 3;
          ends[row] = batch.rowLength(row) / 2;
        }
        step.run(batch, starts, ends, scalars(i + 1, 1e-3, maskedKeep, maskedDecay));
      }
      return HostCopy.floats(model.device(), step.loss())[0];
    }
  }

  private static void prune(BertForQuestionAnswering model) {
    for (Linear linear : model.bert().linears()) {
      try (Arena arena = Arena.ofConfined()) {
        linear.setMask(Tensor.allocate(arena, DType.U8, linear.weight().shape().extents()));
        linear.chooseMask();
        Tensor weight = linear.weight(arena);
        Tensor mask = linear.mask(arena);
        for (long i = 0; i < weight.elements(); i++) {
          if (mask.segment().get(ValueLayout.JAVA_BYTE, i) == 0) {
            weight.setFloat(i, 0);
          }
        }
        linear.setWeight(weight);
      }
    }
  }

  @ParameterizedTest
  @CsvSource({"0, 0, 0", "0.1, 0, 0", "0.1, 0.9, 0", "0.1, 1, 0.1"})
  void replayedStepsTrainAsTheCpuDoesAndTwiceTheSame(
      float dropout, double maskedKeep, double maskedDecay) {
    BertConfig config = config(64, 2, dropout);
    List<PackedBatch> batches = batches(config, 12);
    List<byte[]> before = null;
    for (int run = 0; run < 2; run++) {
      try (Twins twins = Twins.random(config, 4)) {
        for (BertForQuestionAnswering model : List.of(twins.onGpu, twins.onCpu)) {
          if (maskedDecay > 0) {
            maskStraightThrough(model);
          } else {
            prune(model);
          }
        }
        twins.onGpu.prepareTraining();
        float found = train(twins.onGpu, batches, maskedKeep, maskedDecay);
        List<byte[]> weights =
            twins.onGpu.parameters().stream()
                .map(each -> HostCopy.bytes(gpu, each.value()))
                .toList();
        if (run == 1) {
          for (int i = 0; i < weights.size(); i++) {
            assertThat(Arrays.equals(weights.get(i), before.get(i)))
                .as(twins.onGpu.parameters().get(i).name())
                .isTrue();
          }
          continue;
        }
        before = weights;
        twins.onCpu.prepareTraining();
        float expected = train(twins.onCpu, batches, maskedKeep, maskedDecay);
        assertThat(found).isCloseTo(expected, Offset.offset(2e-2f * expected));
        for (int i = 0; i < weights.size(); i++) {
          Parameter onCpu = twins.onCpu.parameters().get(i);
          Parameter onGpu = twins.onGpu.parameters().get(i);
          assertThat(HostCopy.floats(gpu, onGpu.gradient())).as(onGpu.name()).containsOnly(0f);
          if (maskedKeep == 0 && onGpu.mask() != null) {
            checkMasked(onGpu);
          }
          if (maskedDecay > 0 && onGpu.mask() != null) {
            checkStraightThrough(onGpu);
          }
          // Adam's first steps are of one size whatever the gradient's: compare what was learnt.
          double learnt = 12 * 1e-3 * Math.sqrt((double) onCpu.value().elements());
          assertThat(
                  relativeError(
                      HostCopy.floats(gpu, onGpu.value()), onCpu.value().toFloatArray(), learnt))
              .as(onGpu.name())
              .isLessThan(0.2);
        }
      }
    }
  }

  private static void maskStraightThrough(BertForQuestionAnswering model) {
    for (Linear linear : model.bert().linears()) {
      try (Arena arena = Arena.ofConfined()) {
        linear.setMask(Tensor.allocate(arena, DType.U8, linear.weight().shape().extents()));
      }
      linear.chooseMask();
      linear.trainStraightThrough();
    }
  }

  /** What is computed with is the value where the mask keeps it, rounded, and zero elsewhere. */
  private static void checkStraightThrough(Parameter parameter) {
    byte[] mask = HostCopy.bytes(gpu, parameter.mask());
    float[] value = HostCopy.floats(gpu, parameter.value());
    float[] compute = HostCopy.floats(gpu, parameter.compute());
    int dense = 0;
    for (int i = 0; i < mask.length; i++) {
      if (mask[i] == 0) {
        assertThat(compute[i]).isZero();
        dense += value[i] != 0 ? 1 : 0;
      } else {
        assertThat(compute[i]).isCloseTo(value[i], Offset.offset(Math.abs(value[i]) / 256));
      }
    }
    assertThat(dense).isGreaterThan(mask.length * 2 / 5);
  }

  private static void checkMasked(Parameter parameter) {
    byte[] mask = HostCopy.bytes(gpu, parameter.mask());
    float[] value = HostCopy.floats(gpu, parameter.value());
    float[] compute = HostCopy.floats(gpu, parameter.compute());
    float[] first = HostCopy.floats(gpu, parameter.firstMoment());
    float[] second = HostCopy.floats(gpu, parameter.secondMoment());
    int masked = 0;
    for (int i = 0; i < mask.length; i++) {
      if (mask[i] == 0) {
        masked++;
        assertThat(Float.floatToRawIntBits(value[i])).isZero();
        assertThat(compute[i]).isZero();
        assertThat(first[i]).isZero();
        assertThat(second[i]).isZero();
      }
    }
    assertThat(masked).isEqualTo(mask.length / 2);
  }

  @Test
  void distillationAddsTheSameLossAndGradientsAsOnTheCpu() {
    BertConfig config = config(64, 2, 0.1f);
    List<PackedBatch> batches = batches(config, 3);
    try (Twins students = Twins.random(config, 4);
        Twins teachers = Twins.random(config, 5)) {
      float[] losses = new float[2];
      List<List<float[]>> weights = new ArrayList<>();
      for (boolean onGpu : new boolean[] {true, false}) {
        BertForQuestionAnswering student = onGpu ? students.onGpu : students.onCpu;
        BertForQuestionAnswering teacher = onGpu ? teachers.onGpu : teachers.onCpu;
        Device device = student.device();
        student.prepareTraining();
        Distillation distillation = new Distillation(teacher, 0.1f, 0.9f, 5, 2);
        try (TrainingStep step = new TrainingStep(student, distillation, 400, 8)) {
          for (int i = 0; i < 9; i++) {
            PackedBatch batch = batches.get(i % 3);
            int[] answers = new int[batch.rows()];
            answers[0] = -1;
            step.run(batch, answers, answers, scalars(i + 1, 1e-3, 0, 0));
          }
          losses[onGpu ? 0 : 1] = HostCopy.floats(device, step.loss())[0];
        }
        weights.add(
            student.parameters().stream()
                .map(each -> HostCopy.floats(device, each.value()))
                .toList());
      }
      assertThat(losses[0]).isCloseTo(losses[1], Offset.offset(2e-2f * losses[1]));
      for (int i = 0; i < weights.get(0).size(); i++) {
        float[] expected = weights.get(1).get(i);
        double learnt = 9 * 1e-3 * Math.sqrt(expected.length);
        assertThat(relativeError(weights.get(0).get(i), expected, learnt))
            .as(students.onGpu.parameters().get(i).name())
            .isLessThan(0.2);
      }
    }
  }

  @Test
  void aHandfulOfRowsIsLearntByHeart() {
    BertConfig config = config(64, 2, 0);
    Random24 random = new Random24(21);
    int rows = 32;
    int[] lengths = new int[rows];
    int[] starts = new int[rows];
    int[] ends = new int[rows];
    for (int row = 0; row < rows; row++) {
      lengths[row] = 6 + random.below(10);
      starts[row] = random.below(lengths[row]);
      ends[row] = starts[row] + random.below(lengths[row] - starts[row]);
    }
    PackedBatch batch = random.batch(config, lengths);
    int steps = 300;
    try (Twins twins = Twins.random(config, 6)) {
      twins.onGpu.prepareTraining();
      try (TrainingStep step = new TrainingStep(twins.onGpu, null, batch.tokens(), rows)) {
        for (int i = 1; i < steps; i++) {
          step.run(batch, starts, ends, scalars(i, 2e-3, 0, 0));
        }
        gpu.zero(step.loss());
        step.run(batch, starts, ends, scalars(steps, 2e-3, 0, 0));
        assertThat(HostCopy.floats(gpu, step.loss())[0]).isLessThan(0.02f);
      }
    }
  }
}
