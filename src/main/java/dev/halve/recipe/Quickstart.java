package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.Linear;
import dev.halve.engine.Pool;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.SplittableRandom;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * One linear layer, dense against 2:4: the first example of PyTorch's tutorial on semi-structured
 * sparsity. The weight has the fixed pattern 0, 0, 1, 1 along its input.
 */
public final class Quickstart {
  /** How far two outputs may lie apart, as in the tutorial. */
  private static final double TOLERANCE = 1e-3;

  private static final int WARMUP = 2;

  /** A sample takes at least so long, so that the clock and the hand-over do not count. */
  private static final double SAMPLE_SECONDS = 0.01;

  private Quickstart() {}

  /**
   * The layer and how often it is timed.
   *
   * @param tokens rows of the input {@code [tokens, in]}
   * @param out rows of the weight {@code [out, in]}
   * @param repeats samples of each kind, in turn
   */
  public record Layer(int tokens, int in, int out, int repeats) {
    /** The tutorial's. */
    public static final Layer TUTORIAL = new Layer(3072, 10240, 3072, 7);

    public Layer {
      Settings.require(tokens >= 1, "tokens", "1 or more", tokens);
      Settings.require(in >= 4 && in % 4 == 0, "in", "a multiple of 4, as 2:4 needs", in);
      Settings.require(out >= 1, "out", "1 or more", out);
      Settings.require(repeats >= 3, "repeats", "3 or more", repeats);
    }

    /** Floating point operations of the dense product. */
    double flops() {
      return 2.0 * tokens * in * out;
    }
  }

  /**
   * The time of one product.
   *
   * @param msP10 the tenth percentile of the samples, in milliseconds
   * @param msP50 the median, in milliseconds
   * @param msP90 the ninetieth percentile, in milliseconds
   * @param gflops the dense product's operations in a second at the median, for both kinds
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Timing(double msP10, double msP50, double msP90, double gflops) {
    static Timing of(double[] seconds, Layer layer) {
      double[] sorted = seconds.clone();
      Arrays.sort(sorted);
      double median = Latency.percentile(sorted, 0.5);
      return new Timing(
          1e3 * Latency.percentile(sorted, 0.1),
          1e3 * median,
          1e3 * Latency.percentile(sorted, 0.9),
          layer.flops() / median / 1e9);
    }
  }

  /**
   * What came out.
   *
   * @param maxDifference of two outputs
   * @param denseBytes the weight in the device's memory
   * @param sparseBytes the compressed weight in the device's memory
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Result(
      String device,
      String dtype,
      int tokens,
      int in,
      int out,
      double maxDifference,
      double tolerance,
      Timing dense,
      @com.fasterxml.jackson.annotation.JsonProperty("2:4") Timing sparse,
      double speedup,
      long denseBytes,
      long sparseBytes) {}

  /**
   * Checks that both give the same outputs, then times them in turn.
   *
   * @throws HalveException if the outputs differ by more than 1e-3
   */
  public static Result run(String deviceName, Layer layer, Progress progress) {
    try (Device device = Devices.open(deviceName);
        Pool pool = device.openPool();
        Arena arena = Arena.ofShared()) {
      Stage stage = Stage.begin(progress, "prepare", 0, "layers");
      SplittableRandom random = new SplittableRandom(0);
      double bound = 1 / Math.sqrt(layer.in());
      Tensor weight = uniform(arena, random, -bound, bound, layer.out(), layer.in());
      dropFirstTwoOfFour(weight);
      Tensor bias = uniform(arena, random, -bound, bound, layer.out());
      Tensor input = uniform(arena, random, 0, 1, layer.tokens(), layer.in());
      try (Linear dense = Linear.of(device, pool, weight, bias);
          Linear sparse = Linear.of(device, pool, weight, bias)) {
        sparse.toSparseSemiStructured();
        Tensor x = pool.allocate(device.computeType(), layer.tokens(), layer.in());
        device.upload(input, x);
        Tensor y = pool.allocate(device.computeType(), layer.tokens(), layer.out());
        stage.end();
        double difference = difference(device, arena, dense, sparse, x, y);
        Timing[] timings = time(device, layer, progress, x, y, dense, sparse);
        return new Result(
            device.name(),
            device.computeType().name(),
            layer.tokens(),
            layer.in(),
            layer.out(),
            difference,
            TOLERANCE,
            timings[0],
            timings[1],
            timings[0].msP50() / timings[1].msP50(),
            dense.weightBytes(),
            sparse.weightBytes());
      }
    }
  }

  private static Tensor uniform(
      Arena arena, SplittableRandom random, double low, double high, long... extents) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, extents);
    for (long i = 0; i < tensor.elements(); i++) {
      float value = (float) random.nextDouble(low, high);
      tensor.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, value);
    }
    return tensor;
  }

  private static void dropFirstTwoOfFour(Tensor weight) {
    for (long i = 0; i < weight.elements(); i += 4) {
      weight.setFloat(i, 0);
      weight.setFloat(i + 1, 0);
    }
  }

  private static double difference(
      Device device, Arena arena, Linear dense, Linear sparse, Tensor x, Tensor y) {
    Tensor expected = Tensor.allocate(arena, DType.F32, y.shape().extents());
    Tensor found = Tensor.allocate(arena, DType.F32, y.shape().extents());
    dense.forward(x, y);
    device.download(y, expected);
    device.zero(y);
    sparse.forward(x, y);
    device.download(y, found);
    double largest = 0;
    for (long i = 0; i < found.elements(); i++) {
      double difference = Math.abs((double) expected.getFloat(i) - found.getFloat(i));
      if (!(difference <= TOLERANCE)) {
        throw new HalveException(
            "%s: dense gives %s and 2:4 gives %s in token %d, output %d; they must agree within %s"
                .formatted(
                    device.name(),
                    expected.getFloat(i),
                    found.getFloat(i),
                    i / y.extent(1),
                    i % y.extent(1),
                    TOLERANCE));
      }
      largest = Math.max(largest, difference);
    }
    return largest;
  }

  /** Times each layer in turn, so that what disturbs one disturbs all. */
  private static Timing[] time(
      Device device, Layer layer, Progress progress, Tensor x, Tensor y, Linear... linears) {
    Stage stage =
        Stage.begin(progress, "time", (long) layer.repeats() * linears.length, "products");
    int[] products = new int[linears.length];
    for (int i = 0; i < linears.length; i++) {
      double once = 0;
      for (int warmup = 0; warmup < WARMUP; warmup++) {
        once = seconds(device, linears[i], x, y, 1);
      }
      products[i] = (int) Math.max(1, Math.ceil(SAMPLE_SECONDS / once));
    }
    double[][] seconds = new double[linears.length][layer.repeats()];
    for (int repeat = 0; repeat < layer.repeats(); repeat++) {
      for (int i = 0; i < linears.length; i++) {
        seconds[i][repeat] = seconds(device, linears[i], x, y, products[i]);
        stage.advance((long) repeat * linears.length + i + 1, "");
      }
    }
    stage.end();
    return Arrays.stream(seconds).map(each -> Timing.of(each, layer)).toArray(Timing[]::new);
  }

  /** The mean time of some products; reading one row back waits for them. */
  private static double seconds(Device device, Linear linear, Tensor x, Tensor y, int products) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor row = Tensor.allocate(arena, DType.F32, 1, y.extent(1));
      device.download(y.rows(0, 1), row);
      long start = System.nanoTime();
      for (int product = 0; product < products; product++) {
        linear.forward(x, y);
      }
      device.download(y.rows(0, 1), row);
      return (System.nanoTime() - start) / 1e9 / products;
    }
  }
}
