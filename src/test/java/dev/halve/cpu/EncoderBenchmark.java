package dev.halve.cpu;

import dev.halve.core.Tensor;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.PretrainedModel;
import java.util.Random;
import java.util.concurrent.TimeUnit;
import org.openjdk.jmh.annotations.Benchmark;
import org.openjdk.jmh.annotations.BenchmarkMode;
import org.openjdk.jmh.annotations.Fork;
import org.openjdk.jmh.annotations.Measurement;
import org.openjdk.jmh.annotations.Mode;
import org.openjdk.jmh.annotations.OutputTimeUnit;
import org.openjdk.jmh.annotations.Param;
import org.openjdk.jmh.annotations.Scope;
import org.openjdk.jmh.annotations.Setup;
import org.openjdk.jmh.annotations.State;
import org.openjdk.jmh.annotations.TearDown;
import org.openjdk.jmh.annotations.Warmup;

/**
 * The compiled encoder in bge-small's shape, on all threads; with {@code -prof gc}, what it
 * allocates. JMH itself allocates some kilobytes an iteration: {@code -p batch=1x64 -w 10 -r 10}
 * spreads them over hundreds of runs.
 */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MILLISECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 4)
@Measurement(iterations = 5, time = 2)
public class EncoderBenchmark {
  @Param({"dense", "2:4"})
  private String weights;

  @Param({"8x128", "1x384"})
  private String batch;

  private final Device device = Devices.open("cpu");
  private BertForQuestionAnswering model;
  private CompiledModel compiled;
  private PackedBatch packed;

  @Setup
  public void prepare() {
    model = PretrainedModel.random(device, BertConfig.small(), 17);
    if (weights.equals("2:4")) {
      WeightNormSparsifier sparsifier =
          new WeightNormSparsifier(WeightNormSparsifier.Config.SEMI_STRUCTURED);
      sparsifier.prepare(model.bert().linears());
      sparsifier.step();
      sparsifier.squashMask();
      if (!model.toSparseSemiStructured().isEmpty()) {
        throw new IllegalStateException("not every weight is 2:4");
      }
    }
    int rows = Integer.parseInt(batch.substring(0, batch.indexOf('x')));
    int length = Integer.parseInt(batch.substring(batch.indexOf('x') + 1));
    Random random = new Random(1);
    int[][] ids = new int[rows][];
    for (int row = 0; row < rows; row++) {
      ids[row] = random.ints(length, 1000, 30_000).toArray();
    }
    packed = PackedBatch.of(ids, new int[rows][length]);
    compiled = device.compile(model.bert(), null, packed.tokens(), packed.rows());
  }

  @TearDown
  public void close() {
    compiled.close();
    model.close();
    device.close();
  }

  @Benchmark
  public Tensor run() {
    return compiled.run(packed);
  }
}
