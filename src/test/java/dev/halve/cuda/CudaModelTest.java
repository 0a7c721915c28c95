package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.HostCopy;
import dev.halve.engine.ModelFamily;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.Parameter;
import dev.halve.engine.Pass;
import dev.halve.engine.PretrainedModel;
import dev.halve.engine.Workspace;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** Whole models on the GPU, eager and compiled, dense and 2:4, against the CPU's fp32. */
class CudaModelTest {
  private static final BertConfig HEADS_OF_32 =
      new BertConfig(500, 128, 3, 4, 512, 512, 2, 1e-12f, 0, 0);
  private static final BertConfig HEADS_OF_64 =
      new BertConfig(500, 192, 2, 3, 256, 512, 2, 1e-12f, 0, 0);
  private static final int[] LENGTHS = {1, 37, 512, 130, 64, 1, 200};

  @ParameterizedTest
  @CsvSource({"F16,32,0.02", "F16,64,0.02", "BF16,32,0.15", "BF16,64,0.15"})
  void logitsAgreeWithTheCpu(DType dtype, int headSize, double tolerance) {
    BertConfig config = headSize == 32 ? HEADS_OF_32 : HEADS_OF_64;
    PackedBatch batch = batch(config, 5, LENGTHS);
    for (boolean compressed : new boolean[] {false, true}) {
      try (Device gpu = Gpu.open(dtype);
          Device cpu = Devices.open("cpu");
          BertForQuestionAnswering onGpu = model(gpu, config, compressed);
          BertForQuestionAnswering onCpu = model(cpu, config, compressed);
          CompiledModel compiled = onGpu.compile(2000, 10)) {
        float[] expected = eager(cpu, onCpu, batch);
        assertThat(largestDifference(eager(gpu, onGpu, batch), expected))
            .as("eager, compressed %s", compressed)
            .isLessThan(tolerance);
        assertThat(largestDifference(compiled.run(batch).toFloatArray(), expected))
            .as("compiled, compressed %s", compressed)
            .isLessThan(tolerance);
      }
    }
  }

  @Test
  void embeddingsThatAreProjectedAgreeWithTheCpu() {
    BertConfig config =
        new BertConfig(500, 128, 2, 4, 512, 512, 2, 1e-12f, 0, 0, 64, ModelFamily.ELECTRA);
    PackedBatch batch = batch(config, 8, LENGTHS);
    try (Device gpu = Gpu.open(DType.F16);
        Device cpu = Devices.open("cpu");
        BertForQuestionAnswering onGpu = model(gpu, config, true);
        BertForQuestionAnswering onCpu = model(cpu, config, true);
        CompiledModel compiled = onGpu.compile(2000, 10)) {
      float[] expected = eager(cpu, onCpu, batch);
      assertThat(largestDifference(eager(gpu, onGpu, batch), expected)).isLessThan(0.02);
      assertThat(largestDifference(compiled.run(batch).toFloatArray(), expected)).isLessThan(0.02);
    }
  }

  @Test
  void compressedAndDenseWithZerosAgreeToRounding() {
    PackedBatch batch = batch(HEADS_OF_64, 6, LENGTHS);
    try (Device gpu = Gpu.open(DType.F16);
        BertForQuestionAnswering model = model(gpu, HEADS_OF_64, false)) {
      prune(model);
      float[] dense;
      try (CompiledModel compiled = model.compile(2000, 10)) {
        dense = compiled.run(batch).toFloatArray();
      }
      assertThat(model.toSparseSemiStructured()).isEmpty();
      try (CompiledModel compiled = model.compile(2000, 10)) {
        assertThat(largestDifference(compiled.run(batch).toFloatArray(), dense)).isLessThan(0.01);
      }
    }
  }

  @Test
  void compressedWeightsTakeNineSixteenthsOfTheMemory() {
    BertConfig base = BertConfig.base();
    BertConfig twoLayers = new BertConfig(50, 768, 2, 12, 3072, 64, 2, 1e-12f, 0, 0);
    assertThat(twoLayers.intermediateSize()).isEqualTo(base.intermediateSize());
    try (Device gpu = Gpu.open(DType.F16);
        BertForQuestionAnswering model = model(gpu, twoLayers, false)) {
      long dense;
      try (CompiledModel compiled = model.compile(64, 1)) {
        dense = compiled.weightBytes();
      }
      prune(model);
      assertThat(model.toSparseSemiStructured()).isEmpty();
      try (CompiledModel compiled = model.compile(64, 1)) {
        assertThat(compiled.weightBytes() / (double) dense).isLessThan(0.57);
      }
      assertThat(model.linearWeightBytes() / (double) dense).isLessThan(0.57);
    }
  }

  @Test
  void batchesOfChangingLengthShareGraphsAndGiveWhatTheyGiveAlone() {
    Random random = new Random(3);
    try (CudaDevice gpu = Gpu.open(DType.F16);
        BertForQuestionAnswering model = model(gpu, HEADS_OF_64, true);
        CompiledModel compiled = model.compile(4000, 32)) {
      for (int round = 0; round < 40; round++) {
        int[] lengths = random.ints(1 + random.nextInt(12), 1, 300).toArray();
        PackedBatch batch = batch(HEADS_OF_64, round, lengths);
        Tensor logits = compiled.run(batch);
        assertThat(logits.shape().extents()).containsExactly(batch.tokens(), 2);
        float[] found = logits.toFloatArray();
        if (round % 8 == 0) {
          assertThat(largestDifference(found, eager(gpu, model, batch))).isLessThan(0.01);
        }
      }
      assertThat(((CudaCompiledModel) compiled).graphs()).isLessThan(40);
    }
  }

  /** An MLP of 537,600 tokens has 2.2 thousand million activations, more than an int counts. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void theLastRowsOfAHugeBatchAreWhatTheyAreAlone(boolean compressed) {
    BertConfig config = new BertConfig(500, 1024, 1, 16, 4096, 512, 2, 1e-12f, 0, 0);
    int[] lengths = new int[1400];
    Arrays.fill(lengths, 384);
    PackedBatch huge = batch(config, 3, lengths);
    int from = huge.tokens() - 3 * 384;
    PackedBatch last =
        new PackedBatch(
            Arrays.copyOfRange(huge.tokenIds(), from, huge.tokens()),
            Arrays.copyOfRange(huge.typeIds(), from, huge.tokens()),
            new int[] {0, 384, 768, 1152});
    try (CudaDevice gpu = Gpu.open(DType.F16)) {
      gpu.context().makeCurrent();
      Assumptions.assumeTrue(CudaDriver.memoryInfo()[0] > 20L << 30, "less than 20 GiB are free");
      try (BertForQuestionAnswering model = model(gpu, config, compressed);
          CompiledModel compiled = model.compile(huge.tokens(), huge.rows())) {
        float[] alone = compiled.run(last).toFloatArray();
        float[] all = compiled.run(huge).toFloatArray();
        float[] found = Arrays.copyOfRange(all, 2 * from, all.length);
        // Other tiles add up in another order.
        assertThat(largestDifference(found, alone)).isLessThan(0.01);
      }
    }
  }

  /** Rows of 260 go through wider ones, in scratch memory that a larger batch outgrows. */
  @ParameterizedTest
  @ValueSource(booleans = {false, true})
  void aGraphKeepsTheMemoryThatItWasRecordedWith(boolean compressed) {
    BertConfig config = new BertConfig(500, 128, 2, 4, 260, 512, 2, 1e-12f, 0, 0);
    PackedBatch small = batch(config, 1, 60, 50);
    try (CudaDevice gpu = Gpu.open(DType.F16);
        CudaPool others = gpu.openPool();
        BertForQuestionAnswering model = model(gpu, config, compressed);
        CompiledModel compiled = model.compile(3000, 10)) {
      float[] expected = compiled.run(small).toFloatArray();
      compiled.run(batch(config, 2, 512, 512, 512, 512));
      List<Poisoned> owned = new ArrayList<>();
      for (int block = 0; block < 64; block++) {
        owned.add(new Poisoned(gpu, others, DType.F32, 10_000));
        gpu.zero(owned.getLast().tensor());
      }
      assertThat(compiled.run(small).toFloatArray()).isEqualTo(expected);
      owned.forEach(each -> assertThat(each.read()).containsOnly(0));
    }
  }

  @Test
  void withoutHeadTheHiddenStatesComeBack() {
    PackedBatch batch = batch(HEADS_OF_64, 8, 5, 130, 2);
    try (Device gpu = Gpu.open(DType.F16);
        Device cpu = Devices.open("cpu");
        BertForQuestionAnswering onGpu = model(gpu, HEADS_OF_64, false);
        BertForQuestionAnswering onCpu = model(cpu, HEADS_OF_64, false);
        CompiledModel compiled = gpu.compile(onGpu.bert(), null, 500, 5);
        CompiledModel reference = cpu.compile(onCpu.bert(), null, 500, 5)) {
      float[] found = compiled.run(batch).toFloatArray();
      assertThat(largestDifference(found, reference.run(batch).toFloatArray())).isLessThan(0.05);
    }
  }

  @Test
  void everythingIsClosed() {
    long before = OpenResources.count();
    PackedBatch batch = batch(HEADS_OF_32, 9, 100, 20);
    try (Device gpu = Gpu.open(DType.F16);
        BertForQuestionAnswering model = model(gpu, HEADS_OF_32, true);
        CompiledModel compiled = model.compile(500, 4)) {
      compiled.run(batch);
      eager(gpu, model, batch);
      assertThat(OpenResources.count()).isGreaterThan(before);
    }
    assertThat(OpenResources.count()).isEqualTo(before);
  }

  @Test
  void aBatchTooLargeIsRefused() {
    try (Device gpu = Gpu.open(DType.F16);
        BertForQuestionAnswering model = model(gpu, HEADS_OF_32, false);
        CompiledModel compiled = model.compile(100, 2)) {
      assertThatThrownBy(() -> compiled.run(batch(HEADS_OF_32, 1, 60, 60)))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("120 tokens in 2 rows")
          .hasMessageContaining("100");
    }
  }

  @Test
  void outOfMemorySaysHowMuchWasAskedFor() {
    try (CudaDevice gpu = Gpu.open(DType.F16);
        CudaPool pool = gpu.openPool()) {
      assertThatThrownBy(() -> pool.allocate(1L << 50))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("cuda:0 is out of memory")
          .hasMessageContaining("smaller batch");
      // The device is as good as before.
      assertThat(pool.allocate(DType.F32, 10).shape().elements()).isEqualTo(10);
    }
  }

  /** In a process of its own, since nothing brings a lost context back. */
  @Test
  void aKernelThatCrashesSaysThatTheDeviceIsLost() throws IOException, InterruptedException {
    Gpu.open(DType.F16).close();
    Process process =
        new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "-cp",
                System.getProperty("java.class.path"),
                Crash.class.getName())
            .redirectError(ProcessBuilder.Redirect.DISCARD)
            .start();
    String said = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor()).isZero();
    assertThat(said)
        .contains("CUDA_ERROR_ILLEGAL_ADDRESS")
        .contains("the GPU's context is lost: start the process again");
  }

  /** Reads where nothing is and prints what the next wait for the device says. */
  static final class Crash {
    public static void main(String[] arguments) {
      CudaDevice device = Gpu.open(DType.F16);
      try {
        device.operations().toFloat(1L << 20, 1L << 20, 1);
        device.context().synchronize();
      } catch (HalveException lost) {
        System.out.println(lost.getMessage());
      }
      Runtime.getRuntime().halt(0);
    }
  }

  private static BertForQuestionAnswering model(
      Device device, BertConfig config, boolean compressed) {
    BertForQuestionAnswering model = PretrainedModel.random(device, config, 11);
    setNorms(device, model);
    if (compressed) {
      prune(model);
      assertThat(model.toSparseSemiStructured()).isEmpty();
    }
    return model;
  }

  /** As in trained models: scales apart from one, shifts, and outputs that leave outliers. */
  private static void setNorms(Device device, BertForQuestionAnswering model) {
    Random random = new Random(13);
    for (Parameter parameter : model.parameters()) {
      boolean scale = parameter.name().endsWith("LayerNorm.weight");
      boolean bias = parameter.name().endsWith("output.dense.bias");
      if (scale || bias || parameter.name().endsWith("LayerNorm.bias")) {
        try (Arena arena = Arena.ofConfined()) {
          Tensor host = Tensor.allocate(arena, DType.F32, parameter.value().shape().extents());
          for (long i = 0; i < host.elements(); i++) {
            double outlier = bias && i == 7 ? 20 : 0;
            host.setFloat(i, (float) ((scale ? 0.9 : outlier) + 0.2 * random.nextGaussian()));
          }
          device.upload(host, parameter.value());
          device.round(parameter);
        }
      }
    }
  }

  private static void prune(BertForQuestionAnswering model) {
    WeightNormSparsifier sparsifier =
        new WeightNormSparsifier(WeightNormSparsifier.Config.SEMI_STRUCTURED);
    sparsifier.prepare(model.bert().linears());
    sparsifier.step();
    sparsifier.squashMask();
  }

  private static PackedBatch batch(BertConfig config, long seed, int... lengths) {
    Random random = new Random(seed);
    int[][] ids = new int[lengths.length][];
    int[][] types = new int[lengths.length][];
    for (int row = 0; row < lengths.length; row++) {
      ids[row] = random.ints(lengths[row], 0, config.vocabSize()).toArray();
      types[row] = random.ints(lengths[row], 0, config.typeVocabSize()).toArray();
    }
    return PackedBatch.of(ids, types);
  }

  private static float[] eager(Device device, BertForQuestionAnswering model, PackedBatch batch) {
    try (Workspace workspace = new Workspace(device)) {
      return HostCopy.floats(device, model.forward(Pass.inference(workspace, batch)));
    }
  }

  /** NaN where anything is. */
  private static double largestDifference(float[] found, float[] expected) {
    assertThat(found).hasSameSizeAs(expected);
    double largest = 0;
    for (int i = 0; i < found.length; i++) {
      double difference = Math.abs((double) found[i] - expected[i]);
      largest = Double.isNaN(difference) ? Double.NaN : Math.max(largest, difference);
    }
    return largest;
  }
}
