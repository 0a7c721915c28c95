package dev.halve.cpu;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.Epilogue;
import java.lang.foreign.Arena;
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

/** One linear layer on one thread, row-major on both sides: OpenBLAS, and 2:4 both ways. */
@State(Scope.Benchmark)
@BenchmarkMode(Mode.AverageTime)
@OutputTimeUnit(TimeUnit.MICROSECONDS)
@Fork(1)
@Warmup(iterations = 3, time = 1)
@Measurement(iterations = 5, time = 1)
public class ProductBenchmark {
  @Param({"1536x384", "384x1536"})
  private String shape;

  @Param({"8", "128", "384"})
  private int tokens;

  private final Arena arena = Arena.ofShared();
  private final ArenaPool pool = new ArenaPool();
  private final ThreadTeam team = new ThreadTeam(1);
  private final Blas blas = new Blas();
  private final Scratch[] scratch = {new Scratch()};
  private int rows;
  private int columns;
  private Tensor x;
  private Tensor weight;
  private Tensor bias;
  private Tensor y;
  private CpuSparseWeight packed;

  @Setup
  public void prepare() {
    rows = Integer.parseInt(shape.substring(0, shape.indexOf('x')));
    columns = Integer.parseInt(shape.substring(shape.indexOf('x') + 1));
    Random random = new Random(1);
    x = random(random, tokens, columns);
    weight = random(random, rows, columns);
    for (long group = 0; group < weight.elements(); group += 4) {
      int first = random.nextInt(4);
      weight.setFloat(group + first, 0);
      weight.setFloat(group + (first + 1 + random.nextInt(3)) % 4, 0);
    }
    bias = random(random, rows);
    y = Tensor.allocate(arena, DType.F32, tokens, rows);
    packed = CpuSparseWeight.pack(pool, SparseSemiStructuredTensor.compress(arena, weight));
  }

  private Tensor random(Random random, long... extents) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, extents);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, (float) random.nextGaussian());
    }
    return tensor;
  }

  @TearDown
  public void close() {
    team.close();
    scratch[0].close();
    pool.close();
    arena.close();
  }

  @Benchmark
  public void openBlas() {
    blas.timesTransposed(
        tokens,
        rows,
        columns,
        1,
        x.segment().address(),
        columns,
        weight.segment().address(),
        columns,
        0,
        y.segment().address(),
        rows);
  }

  @Benchmark
  public void tiles() {
    TiledProduct.run(team, CpuKernels.best().tiles(), packed.tiled(), x, bias, Epilogue.NONE, y, 0);
  }

  @Benchmark
  public void panels() {
    PanelKernels kernels = CpuKernels.best().panels();
    PanelLinear.run(team, scratch, kernels, packed.paired(), x, bias, Epilogue.NONE, y, 0);
  }
}
