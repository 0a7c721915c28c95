package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.Epilogue;
import dev.halve.engine.Pool;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.function.IntFunction;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Every kernel against sums in double precision. {@link VectorWidthTest} runs the same in JVMs that
 * are limited to shorter vectors: side by side in one JVM, the widths would spoil each other's type
 * profiles, and kernels that are fast alone would box their vectors.
 */
class TiledProductTest {
  private static final int[] TOKENS = {1, 2, 3, 5, 8, 13, 23, 31};
  private static final int[] ROWS = {1, 16, 17, 64, 71};
  private static final int[] COLUMNS = {4, 16, 20, 36, 96};

  private final Arena arena = Arena.ofShared();
  private final Pool pool = new ArenaPool();
  private final Random random = new Random(11);

  @AfterEach
  void close() {
    pool.close();
    arena.close();
  }

  /** Kernels under a name for the test report. */
  private record Named(String name, boolean sparse, TileKernels kernels) {
    @Override
    public String toString() {
      return name;
    }
  }

  static List<Named> kernels() {
    List<Named> all = new ArrayList<>();
    add(all, "scalar sparse", true, 16, t -> ScalarTiles.sparse(16, t));
    add(all, "scalar dense", false, 8, t -> ScalarTiles.dense(8, t));
    int lanes = VectorMath.LANES;
    if (lanes >= 4) {
      add(all, "sparse x" + lanes, true, lanes, t -> KernelCompiler.sparse(lanes, t));
      for (int vectors : new int[] {1, 2, 4}) {
        String name = "dense " + vectors + "x" + lanes;
        int rows = vectors * lanes;
        add(all, name, false, rows, t -> KernelCompiler.dense(lanes, t, vectors));
      }
    }
    CpuKernels best = CpuKernels.best();
    all.add(new Named("this machine's sparse", true, best.sparse()));
    all.add(new Named("this machine's dense", false, best.dense()));
    all.add(new Named("this machine's attention", false, best.attention()));
    return all;
  }

  private static void add(
      List<Named> all, String name, boolean sparse, int rows, IntFunction<TileKernel> compiler) {
    all.add(new Named(name, sparse, TileKernels.compile(rows, 12, compiler)));
  }

  @ParameterizedTest
  @MethodSource("kernels")
  void aProductIsTheSumOfProductsAtOddShapes(Named named) {
    for (int rows : ROWS) {
      for (int columns : COLUMNS) {
        Tensor weight = random(rows, columns);
        if (named.sparse) {
          prune(weight);
        }
        PackedMatrix packed = pack(named, weight);
        for (int tokens : TOKENS) {
          check(packed, weight, tokens, Epilogue.NONE);
        }
        check(packed, weight, 7, Epilogue.GELU);
      }
    }
  }

  @ParameterizedTest
  @MethodSource("kernels")
  void longSumsAndManyTokensStayAccurate(Named named) {
    Tensor weight = random(48, 768);
    if (named.sparse) {
      prune(weight);
    }
    check(pack(named, weight), weight, 200, Epilogue.NONE);
  }

  @Test
  void aTeamGivesTheSameBitsAsOneThread() {
    Tensor weight = random(80, 64);
    prune(weight);
    PackedMatrix packed =
        PackedSparseWeight.pack(
            pool, SparseSemiStructuredTensor.compress(arena, weight), CpuKernels.best().sparse());
    Tensor bias = random(80);
    for (int tokens : new int[] {1, 7, 100, 389}) {
      Tensor x = random(tokens, 64);
      List<float[]> results = new ArrayList<>();
      for (int threads = 1; threads <= 3; threads++) {
        Tensor y = Tensor.allocate(arena, DType.F32, tokens, 80);
        try (ThreadTeam team = new ThreadTeam(threads)) {
          TiledProduct.run(team, packed, x, bias, Epilogue.GELU, y, 0);
        }
        results.add(y.toFloatArray());
      }
      assertThat(results.get(1)).isEqualTo(results.get(0));
      assertThat(results.get(2)).isEqualTo(results.get(0));
    }
  }

  /** The same without a test framework, for a JVM of another vector width; prints that width. */
  public static void main(String[] arguments) {
    for (Named named : kernels()) {
      TiledProductTest test = new TiledProductTest();
      test.aProductIsTheSumOfProductsAtOddShapes(named);
      test.longSumsAndManyTokensStayAccurate(named);
      test.close();
    }
    System.out.println(VectorMath.LANES);
  }

  private PackedMatrix pack(Named named, Tensor weight) {
    return named.sparse
        ? PackedSparseWeight.pack(
            pool, SparseSemiStructuredTensor.compress(arena, weight), named.kernels)
        : PackedDenseWeight.pack(pool, weight, named.kernels);
  }

  /** Into a poisoned output with a margin on either side, relative to the sum of magnitudes. */
  private void check(PackedMatrix packed, Tensor weight, int tokens, Epilogue epilogue) {
    int rows = packed.rows();
    int columns = packed.columns();
    int width = rows + 5;
    Tensor x = random(tokens, columns);
    Tensor bias = random(rows);
    Tensor y = Tensor.allocate(arena, DType.F32, tokens, width);
    for (long i = 0; i < y.elements(); i++) {
      y.setFloat(i, Float.NaN);
    }
    try (ThreadTeam team = new ThreadTeam(1)) {
      TiledProduct.run(team, packed, x, bias, epilogue, y, 2);
    }
    for (int token = 0; token < tokens; token++) {
      for (int column = 0; column < width; column++) {
        float found = y.getFloat((long) token * width + column);
        if (column < 2 || column >= 2 + rows) {
          assertThat(found).isNaN();
          continue;
        }
        double sum = bias.getFloat(column - 2);
        double magnitude = Math.abs(sum);
        for (int i = 0; i < columns; i++) {
          double term =
              (double) x.getFloat((long) token * columns + i)
                  * weight.getFloat((long) (column - 2) * columns + i);
          sum += term;
          magnitude += Math.abs(term);
        }
        double expected = epilogue == Epilogue.GELU ? gelu(sum) : sum;
        assertThat(Math.abs(found - expected)).isLessThan(2e-6 * (1 + magnitude));
      }
    }
  }

  /** By the integral of the normal density: erf is not in the JDK. */
  private static double gelu(double x) {
    int intervals = 2_000;
    double sum = 0;
    for (int i = 0; i <= intervals; i++) {
      double z = x * i / intervals;
      int simpson = i == 0 || i == intervals ? 1 : i % 2 == 0 ? 2 : 4;
      sum += simpson * Math.exp(-z * z / 2);
    }
    return x * (0.5 + sum * x / (3 * intervals) / Math.sqrt(2 * Math.PI));
  }

  private Tensor random(long... extents) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, extents);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, (float) random.nextGaussian());
    }
    return tensor;
  }

  /** Leaves two random elements of every four, now and then fewer. */
  private void prune(Tensor weight) {
    for (long group = 0; group < weight.elements(); group += 4) {
      int first = random.nextInt(4);
      int second = (first + 1 + random.nextInt(3)) % 4;
      for (int i = 0; i < 4; i++) {
        if (i != first && i != second || random.nextInt(20) == 0) {
          weight.setFloat(group + i, 0);
        }
      }
    }
  }
}
