package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.Epilogue;
import dev.halve.engine.Pool;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.MethodSource;

/**
 * Every kernel against sums in double precision. {@link VectorWidthTest} runs the same in JVMs that
 * are limited to shorter vectors: side by side in one JVM, the widths would spoil each other's type
 * profiles, and kernels that are fast alone would box their vectors.
 */
class SparseProductTest {
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

  /** Kernels under a name for the test report: tiles, or panels where those are given. */
  record Named(String name, TileKernels tiles, PanelKernels panels) {
    @Override
    public String toString() {
      return name;
    }
  }

  static List<Named> kernels() {
    List<Named> all = new ArrayList<>();
    TileKernels scalar = TileKernels.compile(12, ScalarTiles::sparse);
    all.add(new Named("scalar tiles", scalar, null));
    all.add(new Named("scalar panels", scalar, PanelKernels.scalar()));
    int lanes = VectorMath.LANES;
    if (lanes >= 4) {
      TileKernels tiles = TileKernels.compile(12, t -> TileCompiler.sparse(lanes, t));
      all.add(new Named("tiles x" + lanes, tiles, null));
      all.add(new Named("panels x" + lanes, tiles, PanelKernels.compile(lanes)));
    }
    CpuKernels best = CpuKernels.best();
    all.add(new Named("this machine's tiles", best.tiles(), null));
    all.add(new Named("this machine's panels", best.tiles(), best.panels()));
    return all;
  }

  @ParameterizedTest
  @MethodSource("kernels")
  void aProductIsTheSumOfProductsAtOddShapes(Named named) {
    for (int rows : ROWS) {
      for (int columns : COLUMNS) {
        Tensor weight = random(rows, columns);
        prune(weight);
        CpuSparseWeight packed = pack(weight);
        for (int tokens : TOKENS) {
          check(named, packed, weight, tokens, Epilogue.NONE);
        }
        check(named, packed, weight, 7, Epilogue.GELU);
      }
    }
  }

  @ParameterizedTest
  @MethodSource("kernels")
  void longSumsAndManyTokensStayAccurate(Named named) {
    Tensor weight = random(48, 768);
    prune(weight);
    check(named, pack(weight), weight, 400, Epilogue.NONE);
    Tensor wide = random(20, 2044);
    prune(wide);
    check(named, pack(wide), wide, 600, Epilogue.NONE);
  }

  @ParameterizedTest
  @CsvSource({"false, 64", "true, 64", "true, 2000"})
  void aTeamGivesTheSameBitsAsOneThread(boolean panels, int columns) {
    Tensor weight = random(80, columns);
    prune(weight);
    CpuKernels best = CpuKernels.best();
    CpuSparseWeight packed =
        CpuSparseWeight.pack(pool, SparseSemiStructuredTensor.compress(arena, weight));
    Tensor bias = random(80);
    for (int tokens : new int[] {1, 7, 100, 389}) {
      Tensor x = random(tokens, columns);
      List<float[]> results = new ArrayList<>();
      for (int threads = 1; threads <= 3; threads++) {
        Tensor y = Tensor.allocate(arena, DType.F32, tokens, 80);
        PanelKernels kernels = panels ? best.panels() : null;
        run(threads, best.tiles(), kernels, packed, x, bias, Epilogue.GELU, y, 0);
        results.add(y.toFloatArray());
      }
      assertThat(results.get(1)).isEqualTo(results.get(0));
      assertThat(results.get(2)).isEqualTo(results.get(0));
    }
  }

  /** The same without a test framework, for a JVM of another vector width; prints that width. */
  public static void main(String[] arguments) {
    for (Named named : kernels()) {
      SparseProductTest test = new SparseProductTest();
      test.aProductIsTheSumOfProductsAtOddShapes(named);
      test.longSumsAndManyTokensStayAccurate(named);
      test.close();
    }
    PanelAttentionTest.checkAll();
    System.out.println(VectorMath.LANES);
  }

  private CpuSparseWeight pack(Tensor weight) {
    return CpuSparseWeight.pack(pool, SparseSemiStructuredTensor.compress(arena, weight));
  }

  /** Into a poisoned output with a margin on either side, relative to the sum of magnitudes. */
  private void check(
      Named named, CpuSparseWeight packed, Tensor weight, int tokens, Epilogue epilogue) {
    int rows = packed.paired().rows();
    int columns = packed.paired().columns();
    int width = rows + 5;
    Tensor x = random(tokens, columns);
    Tensor bias = random(rows);
    Tensor y = Tensor.allocate(arena, DType.F32, tokens, width);
    for (long i = 0; i < y.elements(); i++) {
      y.setFloat(i, Float.NaN);
    }
    run(1, named.tiles, named.panels, packed, x, bias, epilogue, y, 2);
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

  private static void run(
      int threads,
      TileKernels tiles,
      PanelKernels panels,
      CpuSparseWeight weight,
      Tensor x,
      Tensor bias,
      Epilogue epilogue,
      Tensor y,
      int column) {
    Scratch[] scratch = new Scratch[threads];
    Arrays.setAll(scratch, i -> new Scratch());
    try (ThreadTeam team = new ThreadTeam(threads)) {
      if (panels == null) {
        TiledProduct.run(team, tiles, weight.tiled(), x, bias, epilogue, y, column);
      } else {
        PanelLinear.run(team, scratch, panels, weight.paired(), x, bias, epilogue, y, column);
      }
    }
    for (Scratch each : scratch) {
      each.close();
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
