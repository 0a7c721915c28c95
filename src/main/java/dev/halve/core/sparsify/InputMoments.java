package dev.halve.core.sparsify;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.stream.IntStream;

/**
 * The second moments of what goes into a linear layer, {@code Σ xᵀ·x [in, in]} over calibration
 * text: up to a factor the Hessian of the layer's squared error. Layers that read the same input
 * share one.
 */
public final class InputMoments implements AutoCloseable {
  private static final int TILE = 128;

  private final int in;
  private final Arena arena = Arena.ofShared();
  private final MemorySegment sums;
  private long tokens;
  private Tensor factor;
  private double factorDamping = Double.NaN;

  /**
   * @param in the layer's inputs
   */
  @SuppressWarnings("MustBeClosedChecker") // closed with this object
  public InputMoments(int in) {
    this.in = in;
    this.sums = arena.allocate((long) in * in * Double.BYTES, Tensor.ALIGNMENT);
  }

  /** The layer's inputs. */
  public int in() {
    return in;
  }

  /** How many tokens were added. */
  public long tokens() {
    return tokens;
  }

  /**
   * Adds what went into the layer.
   *
   * @param products {@code xᵀ·x} of it, a host tensor F32 {@code [in, in]}, not read below its
   *     diagonal
   * @param count of tokens
   */
  public void add(Tensor products, long count) {
    if (products.dtype() != DType.F32
        || products.shape().rank() != 2
        || products.extent(0) != in
        || products.extent(1) != in) {
      throw new IllegalArgumentException(products + " for " + in + " inputs");
    }
    for (long row = 0; row < in; row++) {
      for (long column = row; column < in; column++) {
        long i = row * in + column;
        float term = products.segment().getAtIndex(ValueLayout.JAVA_FLOAT, i);
        double sum = sums.getAtIndex(ValueLayout.JAVA_DOUBLE, i) + term;
        sums.setAtIndex(ValueLayout.JAVA_DOUBLE, i, sum);
        sums.setAtIndex(ValueLayout.JAVA_DOUBLE, column * in + row, sum);
      }
    }
    tokens += count;
    factorDamping = Double.NaN;
  }

  /** One entry of the sum. */
  public double get(int row, int column) {
    return sums.getAtIndex(ValueLayout.JAVA_DOUBLE, (long) row * in + column);
  }

  /**
   * What a change of the layer's weight does to each output on the text: {@code Σ (x · dᵀ)²}, F64
   * {@code [out]}.
   *
   * @param delta a host tensor {@code [out, in]} of a floating type
   */
  public double[] squaredErrors(Tensor delta) {
    if (delta.shape().rank() != 2 || delta.extent(1) != in) {
      throw new IllegalArgumentException(delta + " for " + in + " inputs");
    }
    int out = Math.toIntExact(delta.extent(0));
    double[] errors = new double[out];
    try (Arena scratch = Arena.ofShared()) {
      MemorySegment rows = scratch.allocate(delta.elements() * Double.BYTES, Tensor.ALIGNMENT);
      for (long i = 0; i < delta.elements(); i++) {
        rows.setAtIndex(ValueLayout.JAVA_DOUBLE, i, delta.getFloat(i));
      }
      IntStream.range(0, Math.ceilDiv(out, TILE))
          .parallel()
          .forEach(part -> addSquaredErrors(rows, part * TILE, out, errors));
    }
    return errors;
  }

  private void addSquaredErrors(MemorySegment rows, int first, int out, double[] errors) {
    int count = Math.min(TILE, out - first);
    try (Arena scratch = Arena.ofConfined()) {
      MemorySegment product =
          scratch.allocate((long) count * TILE * Double.BYTES, Tensor.ALIGNMENT);
      for (int row = 0; row < in; row += TILE) {
        for (int column = row; column < in; column += TILE) {
          int m = Math.min(TILE, in - row);
          int n = Math.min(TILE, in - column);
          product.fill((byte) 0);
          long start = (long) first * in;
          long tile = (long) row * in + column;
          DenseAlgebra.subtractProduct(
              count,
              n,
              m,
              new DenseAlgebra.Matrix(rows, start + row, in),
              new DenseAlgebra.Matrix(sums, tile, in),
              new DenseAlgebra.Matrix(product, 0, TILE));
          // What lies below the diagonal is what lies above it.
          double times = row == column ? 1 : 2;
          for (int r = 0; r < count; r++) {
            for (int c = 0; c < n; c++) {
              errors[first + r] -=
                  times
                      * product.getAtIndex(ValueLayout.JAVA_DOUBLE, (long) r * TILE + c)
                      * rows.getAtIndex(
                          ValueLayout.JAVA_DOUBLE, start + (long) r * in + column + c);
            }
          }
        }
      }
    }
  }

  /** The L2 norm of each input, F32 {@code [in]}, owned by the arena. */
  public Tensor norms(Arena owner) {
    float[] norms = new float[in];
    for (int i = 0; i < in; i++) {
      norms[i] = (float) Math.sqrt(get(i, i));
    }
    return Tensor.of(owner, norms, in);
  }

  /**
   * The upper factor {@code U} of the inverse {@code (H + damping · mean(diag H) · I)⁻¹ = Uᵀ·U},
   * F64 {@code [in, in]}, kept until the next {@link #add} because layers with one input share it;
   * what lies below its diagonal is undefined. An input that was always zero counts as independent
   * of the others.
   *
   * @param damping 0.01 in the paper
   * @throws HalveException if the inputs hold NaN or infinity, or the damping does not suffice
   */
  Tensor inverseFactor(double damping) {
    if (factorDamping == damping) {
      return factor;
    }
    double trace = 0;
    for (int i = 0; i < in; i++) {
      trace += get(i, i);
    }
    if (!Double.isFinite(trace)) {
      throw new HalveException("the calibration inputs hold NaN or infinity; find sound weights");
    }
    double added = damping * trace / in;
    factorDamping = Double.NaN;
    factor = factor == null ? Tensor.allocate(arena, DType.F64, in, in) : factor;
    try (Arena scratch = Arena.ofShared()) {
      // H = R·Rᵀ with an upper R, so that U is R⁻¹: the lower Cholesky factor of H read backwards.
      MemorySegment backwards = scratch.allocate((long) in * in * Double.BYTES, Tensor.ALIGNMENT);
      IntStream.range(0, in)
          .parallel()
          .forEach(i -> {
            for (int j = 0; j <= i; j++) {
              double value = get(in - 1 - i, in - 1 - j);
              if (i == j) {
                value = (value == 0 ? 1 : value) + added;
              }
              backwards.setAtIndex(ValueLayout.JAVA_DOUBLE, (long) i * in + j, value);
            }
          });
      if (!DenseAlgebra.cholesky(backwards, in)) {
        throw new HalveException(
            "the calibration inputs do not determine the weights; calibrate with more text, or"
                + " with a damping above "
                + damping);
      }
      DenseAlgebra.invertBackwards(backwards, in, factor.segment());
    }
    factorDamping = damping;
    return factor;
  }

  @Override
  public void close() {
    if (arena.scope().isAlive()) {
      arena.close();
    }
  }
}
