package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.sun.management.ThreadMXBean;
import dev.halve.core.HalveException;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.Pass;
import dev.halve.engine.PretrainedModel;
import dev.halve.engine.Workspace;
import java.lang.management.ManagementFactory;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The compiled encoder against the eager one on the same device, dense and 2:4. */
class CompiledEncoderTest {
  private static final int[] LENGTHS = {1, 37, 130, 64, 1, 200};

  @ParameterizedTest
  @CsvSource({"64, 2, 256", "128, 2, 64", "20, 4, 36", "48, 3, 100", "64, 2, 2048"})
  void compiledIsWhatEagerIs(int hidden, int heads, int intermediate) {
    BertConfig config = new BertConfig(90, hidden, 2, heads, intermediate, 256, 2, 1e-12f, 0, 0);
    PackedBatch batch = batch(config, 3, LENGTHS);
    for (boolean compressed : new boolean[] {false, true}) {
      try (Device device = Devices.open("cpu");
          BertForQuestionAnswering model = model(device, config, compressed);
          CompiledModel labelled = model.compile(500, 8);
          CompiledModel encoder = device.compile(model.bert(), null, 500, 8);
          Workspace workspace = new Workspace(device)) {
        Pass pass = Pass.inference(workspace, batch);
        float[] logits = model.forward(pass).toFloatArray();
        float[] lastHidden = model.bert().forward(pass).lastHidden().toFloatArray();
        // Twice: nothing of the first run may be left in the second.
        for (int run = 0; run < 2; run++) {
          assertThat(largestDifference(labelled.run(batch).toFloatArray(), logits))
              .as("logits, compressed %s", compressed)
              .isLessThan(2e-5);
          assertThat(largestDifference(encoder.run(batch).toFloatArray(), lastHidden))
              .as("hidden states, compressed %s", compressed)
              .isLessThan(2e-5);
          labelled.run(batch(config, 9, 250, 200));
          encoder.run(batch(config, 9, 250, 200));
        }
      }
    }
  }

  /** In a JVM of its own: what other tests have run decides what the JIT inlines in theirs. */
  @Test
  void aRunAllocatesNothingButItsResult() throws Exception {
    Process process =
        new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--add-modules=jdk.incubator.vector",
                "--enable-native-access=ALL-UNNAMED",
                "-Djdk.incubator.vector.VECTOR_ACCESS_OOB_CHECK=0",
                "-cp",
                System.getProperty("java.class.path"),
                CompiledEncoderTest.class.getName())
            .redirectErrorStream(true)
            .start();
    String output =
        new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8).strip();
    assertThat(process.waitFor()).as(output).isZero();
    long allocated = Long.parseLong(output.lines().toList().getLast());
    assertThat(allocated).as("bytes a run").isLessThan(1_000);
  }

  /** Prints the bytes that one run allocates once its code is compiled. */
  public static void main(String[] arguments) {
    BertConfig config = new BertConfig(90, 64, 2, 2, 128, 64, 2, 1e-12f, 0, 0);
    PackedBatch batch = batch(config, 4, 20, 33, 7);
    ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = model(device, config, true);
        CompiledModel compiled = model.compile(100, 4)) {
      // Interpreted vector code boxes its vectors: only compiled code can be judged, and when the
      // compilers are done is a matter of time, not of runs.
      long allocated = Long.MAX_VALUE;
      long deadline = System.nanoTime() + Duration.ofMinutes(3).toNanos();
      while (allocated >= 1_000 && System.nanoTime() < deadline) {
        for (int run = 0; run < 20; run++) {
          compiled.run(batch);
        }
        long before = threads.getCurrentThreadAllocatedBytes();
        for (int run = 0; run < 20; run++) {
          compiled.run(batch);
        }
        allocated = (threads.getCurrentThreadAllocatedBytes() - before) / 20;
      }
      System.out.println(allocated);
    }
  }

  @Test
  void refusesABatchThatIsTooLarge() {
    BertConfig config = new BertConfig(90, 20, 1, 2, 36, 64, 2, 1e-12f, 0, 0);
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = model(device, config, false);
        CompiledModel compiled = model.compile(40, 2)) {
      assertThatThrownBy(() -> compiled.run(batch(config, 1, 41)))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("41 tokens")
          .hasMessageContaining("compiled for 40");
      assertThatThrownBy(() -> compiled.run(batch(config, 1, 4, 5, 6)))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("3 rows");
    }
  }

  private static BertForQuestionAnswering model(
      Device device, BertConfig config, boolean compressed) {
    BertForQuestionAnswering model = PretrainedModel.random(device, config, 17);
    if (compressed) {
      WeightNormSparsifier sparsifier =
          new WeightNormSparsifier(WeightNormSparsifier.Config.SEMI_STRUCTURED);
      sparsifier.prepare(model.bert().linears());
      sparsifier.step();
      sparsifier.squashMask();
      assertThat(model.toSparseSemiStructured()).isEmpty();
    }
    return model;
  }

  private static PackedBatch batch(BertConfig config, int seed, int... lengths) {
    Random random = new Random(seed);
    int[][] ids = new int[lengths.length][];
    int[][] types = new int[lengths.length][];
    for (int row = 0; row < lengths.length; row++) {
      ids[row] = random.ints(lengths[row], 0, config.vocabSize()).toArray();
      types[row] = random.ints(lengths[row], 0, 2).toArray();
    }
    return PackedBatch.of(ids, types);
  }

  private static double largestDifference(float[] found, float[] expected) {
    assertThat(found).hasSameSizeAs(expected);
    double largest = 0;
    for (int i = 0; i < found.length; i++) {
      largest = Math.max(largest, Math.abs(found[i] - expected[i]));
    }
    return largest;
  }
}
