package dev.halve.cpu;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.Epilogue;
import dev.halve.engine.Pool;
import java.lang.foreign.Arena;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import java.util.concurrent.locks.LockSupport;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.openblas.global.openblas;

/**
 * One linear layer: OpenBLAS on the dense weight, 2:4 by tiles, 2:4 by panels, in turn in one
 * process. Prints, by token count, the median over the shapes of the medians of paired ratios.
 *
 * <p>Arguments: threads, then token counts. Run it with {@code -Xbatch
 * -XX:CompileThresholdScaling=0.1}: the JIT counts iterations, of which the interpreter takes
 * seconds for as many as the largest kernels need.
 */
public final class LinearTiming {
  private static final int[][] SHAPES = {
    {384, 384}, {1536, 384}, {384, 1536}, {768, 768}, {3072, 768}, {768, 3072}
  };
  private static final int ROUNDS = 21;
  private static final double ROUND_SECONDS = 0.004;
  private static final double WARM_SECONDS = 0.5;

  private LinearTiming() {}

  public static void main(String[] arguments) {
    int threads = Integer.parseInt(arguments[0]);
    try (ThreadTeam team = new ThreadTeam(threads)) {
      for (String tokens : List.of(arguments).subList(1, arguments.length)) {
        measure(team, Integer.parseInt(tokens));
      }
    }
  }

  private static void measure(ThreadTeam team, int tokens) {
    List<double[]> tiles = new ArrayList<>();
    List<double[]> panels = new ArrayList<>();
    StringBuilder detail = new StringBuilder();
    for (int[] shape : SHAPES) {
      double[][] seconds = shape(team, tokens, shape[0], shape[1]);
      double operations = 2.0 * tokens * shape[0] * shape[1];
      tiles.add(ratios(seconds[0], seconds[1]));
      panels.add(ratios(seconds[0], seconds[2]));
      detail.append(
          "  %dx%d: %.0f %.0f %.0f GFLOP/s, x%.2f x%.2f%n"
              .formatted(
                  shape[0],
                  shape[1],
                  operations / median(seconds[0]) / 1e9,
                  operations / median(seconds[1]) / 1e9,
                  operations / median(seconds[2]) / 1e9,
                  median(tiles.getLast()),
                  median(panels.getLast())));
    }
    System.out.printf(
        "%d threads, %d tokens: tiles %.2f (%.2f to %.2f), panels %.2f (%.2f to %.2f)%n%s",
        team.size(),
        tokens,
        median(medians(tiles)),
        least(medians(tiles)),
        -least(negated(medians(tiles))),
        median(medians(panels)),
        least(medians(panels)),
        -least(negated(medians(panels))),
        detail);
  }

  /** Seconds of a product by round: OpenBLAS, tiles, panels. */
  private static double[][] shape(ThreadTeam team, int tokens, int rows, int columns) {
    try (Arena arena = Arena.ofShared();
        Pool pool = new ArenaPool()) {
      Random random = new Random(1);
      Tensor x = random(arena, random, tokens, columns);
      Tensor weight = random(arena, random, rows, columns);
      for (long group = 0; group < weight.elements(); group += 4) {
        int first = random.nextInt(4);
        weight.setFloat(group + first, 0);
        weight.setFloat(group + (first + 1 + random.nextInt(3)) % 4, 0);
      }
      Tensor bias = Tensor.allocate(arena, DType.F32, rows);
      Tensor y = Tensor.allocate(arena, DType.F32, tokens, rows);
      CpuSparseWeight sparse =
          CpuSparseWeight.pack(pool, SparseSemiStructuredTensor.compress(arena, weight));
      Scratch[] scratch = scratches(team.size());
      Blas blas = new Blas();
      // Halve holds OpenBLAS to one thread when it first uses it.
      openblas.blas_set_num_threads(team.size());
      long xAt = x.segment().address();
      long weightAt = weight.segment().address();
      long yAt = y.segment().address();
      FloatPointer weightPointer = pointer(weight);
      FloatPointer xPointer = pointer(x);
      FloatPointer yPointer = pointer(y);
      List<Runnable> candidates =
          List.of(
              tokens == 1
                  ? () ->
                      openblas.cblas_sgemv(
                          openblas.CblasRowMajor,
                          openblas.CblasNoTrans,
                          rows,
                          columns,
                          1,
                          weightPointer,
                          columns,
                          xPointer,
                          1,
                          0,
                          yPointer,
                          1)
                  : () ->
                      blas.timesTransposed(
                          tokens, rows, columns, 1, xAt, columns, weightAt, columns, 0, yAt, rows),
              () ->
                  TiledProduct.run(
                      team,
                      CpuKernels.best().tiles(),
                      sparse.tiled(),
                      x,
                      bias,
                      Epilogue.NONE,
                      y,
                      0),
              () ->
                  PanelLinear.run(
                      team,
                      scratch,
                      CpuKernels.best().panels(),
                      sparse.paired(),
                      x,
                      bias,
                      Epilogue.NONE,
                      y,
                      0));
      int[] repeats = new int[candidates.size()];
      for (int i = 0; i < repeats.length; i++) {
        repeats[i] = (int) Math.max(1, ROUND_SECONDS / warm(candidates.get(i)));
      }
      double[][] seconds = new double[candidates.size()][ROUNDS];
      for (int round = 0; round < ROUNDS; round++) {
        for (int i = 0; i < repeats.length; i++) {
          if (team.size() > 1) {
            settle();
          }
          seconds(candidates.get(i), 1);
          seconds[i][round] = seconds(candidates.get(i), repeats[i]);
        }
      }
      return seconds;
    }
  }

  /**
   * Runs a candidate until it has not become faster for a while, however long that takes.
   *
   * @return the least seconds of one run
   */
  private static double warm(Runnable candidate) {
    double least = Double.POSITIVE_INFINITY;
    for (long since = System.nanoTime(); (System.nanoTime() - since) / 1e9 < WARM_SECONDS; ) {
      double once = seconds(candidate, 1);
      if (once < 0.9 * least) {
        since = System.nanoTime();
      }
      least = Math.min(least, once);
    }
    return least;
  }

  /**
   * Until the threads of the one before have gone to sleep: OpenBLAS's spin for 2^26 cycles or
   * 2^28.
   */
  private static void settle() {
    LockSupport.parkNanos(100_000_000);
  }

  private static Scratch[] scratches(int members) {
    Scratch[] scratches = new Scratch[members];
    Arrays.setAll(scratches, i -> new Scratch());
    return scratches;
  }

  private static FloatPointer pointer(Tensor tensor) {
    return new FloatPointer(
        tensor.segment().asByteBuffer().order(ByteOrder.nativeOrder()).asFloatBuffer());
  }

  private static double seconds(Runnable candidate, int repeats) {
    long start = System.nanoTime();
    for (int i = 0; i < repeats; i++) {
      candidate.run();
    }
    return (System.nanoTime() - start) / 1e9 / repeats;
  }

  private static Tensor random(Arena arena, Random random, long... extents) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, extents);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, (float) random.nextGaussian());
    }
    return tensor;
  }

  private static double[] ratios(double[] reference, double[] other) {
    double[] ratios = new double[reference.length];
    Arrays.setAll(ratios, i -> reference[i] / other[i]);
    return ratios;
  }

  private static double[] medians(List<double[]> of) {
    return of.stream().mapToDouble(LinearTiming::median).toArray();
  }

  private static double[] negated(double[] values) {
    return Arrays.stream(values).map(value -> -value).toArray();
  }

  private static double least(double[] values) {
    return Arrays.stream(values).min().orElseThrow();
  }

  private static double median(double[] values) {
    double[] sorted = values.clone();
    Arrays.sort(sorted);
    int half = sorted.length / 2;
    return sorted.length % 2 == 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
  }
}
