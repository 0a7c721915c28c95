package dev.halve.core.sparsify;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Function;
import java.util.stream.IntStream;

/**
 * One-shot pruning with a second-order update: going through the inputs in order, what a pruned
 * element did is made up for by those behind it, so that the layer's outputs on calibration text
 * change as little as that order allows. Frantar and Alistarh, "SparseGPT: Massive Language Models
 * Can Be Accurately Pruned in One-Shot", arXiv 2301.00774, in double precision.
 *
 * <p>In each group the elements with the smallest error {@code w² / U[j, j]²} go, {@code UᵀU} the
 * inverse Hessian. An input that is always zero loses its weights.
 */
public final class SparseGptSparsifier extends Sparsifier {
  /** The damping of the paper, as a share of the Hessian's mean diagonal. */
  public static final double DAMPING = 0.01;

  /** Inputs that are worked through before the ones behind them are told. */
  private static final int BLOCK = 128;

  /** Outputs that one task takes: 384 occupy sixteen threads. */
  private static final int ROWS = 24;

  private final NOfM pattern;
  private final double damping;
  private final Function<String, InputMoments> moments;

  /**
   * @param moments for a layer's name the moments of its inputs over calibration text
   */
  public SparseGptSparsifier(NOfM pattern, double damping, Function<String, InputMoments> moments) {
    this.pattern = pattern;
    this.damping = damping;
    this.moments = moments;
  }

  @Override
  protected boolean fits(String layer, Shape weight) {
    return pattern.fits(weight);
  }

  @Override
  protected void update(String layer, Tensor weight, Tensor mask) {
    try {
      prune(weight, mask, moments.apply(layer), pattern, damping);
    } catch (HalveException unfit) {
      throw unfit.in(layer);
    }
  }

  /**
   * Prunes one weight in place.
   *
   * @param weight a host tensor {@code [out, in]} of a floating type, finite
   * @param mask U8 {@code [out, in]}; 1 where an element stays
   * @param moments of the layer's inputs
   * @param damping a share of the Hessian's mean diagonal, {@link #DAMPING} in the paper
   * @throws HalveException if the shapes do not fit, or the moments cannot be inverted
   */
  public static void prune(
      Tensor weight, Tensor mask, InputMoments moments, NOfM pattern, double damping) {
    if (!pattern.fits(weight.shape())) {
      throw new HalveException("the weight " + weight + " cannot be " + pattern);
    }
    int in = Math.toIntExact(weight.extent(1));
    if (moments == null || moments.in() != in || moments.tokens() == 0) {
      throw new HalveException("no moments of its " + in + " inputs: calibrate this layer");
    }
    int out = Math.toIntExact(weight.extent(0));
    Problem problem = Problem.of(moments, damping, pattern);
    // Tasks work on copies that any thread may touch, which the caller's tensors need not allow.
    try (Arena scratch = Arena.ofShared()) {
      Tensor values = Tensor.allocate(scratch, DType.F32, out, in);
      values.copyFrom(weight);
      MemorySegment keep = scratch.allocate(weight.elements());
      IntStream.range(0, Math.ceilDiv(out, ROWS))
          .parallel()
          .forEach(task -> {
            int first = task * ROWS;
            problem.prune(first, Math.min(ROWS, out - first), values.segment(), keep);
          });
      weight.copyFrom(values);
      mask.segment().copyFrom(keep);
    }
  }

  /**
   * What the rows of a weight have in common.
   *
   * @param factor F64 {@code [in, in]}
   * @param triangles of the factor, on its diagonal, for each block of inputs {@code [width,
   *     width]}
   * @param silent inputs that are always zero
   */
  private record Problem(
      int in,
      NOfM pattern,
      int block,
      MemorySegment factor,
      List<double[]> triangles,
      boolean[] silent) {
    static Problem of(InputMoments moments, double damping, NOfM pattern) {
      int in = moments.in();
      int block = Math.ceilDiv(BLOCK, pattern.group()) * pattern.group();
      MemorySegment factor = moments.inverseFactor(damping).segment();
      List<double[]> triangles = new ArrayList<>();
      for (int first = 0; first < in; first += block) {
        triangles.add(triangle(factor, in, first, Math.min(block, in - first)));
      }
      boolean[] silent = new boolean[in];
      for (int i = 0; i < in; i++) {
        silent[i] = moments.get(i, i) == 0;
      }
      return new Problem(in, pattern, block, factor, triangles, silent);
    }

    private static double[] triangle(MemorySegment factor, int in, int first, int width) {
      double[] triangle = new double[width * width];
      for (int i = 0; i < width; i++) {
        long from = (long) (first + i) * in + first + i;
        MemorySegment.copy(
            factor,
            ValueLayout.JAVA_DOUBLE,
            from * Double.BYTES,
            triangle,
            i * (width + 1),
            width - i);
      }
      return triangle;
    }

    /**
     * Prunes some rows of a weight.
     *
     * @param weight F32 {@code [out, in]}
     * @param mask U8 {@code [out, in]}
     */
    void prune(int firstRow, int count, MemorySegment weight, MemorySegment mask) {
      long start = (long) firstRow * in;
      long elements = (long) count * in;
      try (Arena scratch = Arena.ofConfined()) {
        MemorySegment values = scratch.allocate(elements * Double.BYTES, Tensor.ALIGNMENT);
        for (long i = 0; i < elements; i++) {
          double value = weight.getAtIndex(ValueLayout.JAVA_FLOAT, start + i);
          values.setAtIndex(ValueLayout.JAVA_DOUBLE, i, silent[(int) (i % in)] ? 0 : value);
        }
        new Rows(this, count, values, mask.asSlice(start, elements)).prune();
        for (long i = 0; i < elements; i++) {
          float value = (float) values.getAtIndex(ValueLayout.JAVA_DOUBLE, i);
          weight.setAtIndex(ValueLayout.JAVA_FLOAT, start + i, value);
        }
      }
    }
  }

  /**
   * Some rows of a weight on their way through all inputs.
   *
   * @param values F64 {@code [count, in]}
   * @param keep U8 {@code [count, in]}
   */
  private record Rows(Problem problem, int count, MemorySegment values, MemorySegment keep) {
    void prune() {
      int in = problem.in;
      int block = problem.block;
      try (Arena scratch = Arena.ofConfined()) {
        MemorySegment errors =
            scratch.allocate((long) count * block * Double.BYTES, Tensor.ALIGNMENT);
        for (int first = 0; first < in; first += block) {
          int width = Math.min(block, in - first);
          double[] triangle = problem.triangles.get(first / block);
          for (int row = 0; row < count; row++) {
            pruneBlock(
                row, first, width, triangle, errors.asSlice((long) row * block * Double.BYTES));
          }
          int behind = first + width;
          if (behind < in) {
            long corner = (long) first * in + behind;
            DenseAlgebra.subtractProduct(
                count,
                in - behind,
                width,
                new DenseAlgebra.Matrix(errors, 0, block),
                new DenseAlgebra.Matrix(problem.factor, corner, in),
                new DenseAlgebra.Matrix(values, behind, in));
          }
        }
      }
    }

    private void pruneBlock(
        int row, int first, int width, double[] triangle, MemorySegment errors) {
      long start = (long) row * problem.in + first;
      NOfM pattern = problem.pattern;
      double[] value = new double[width];
      MemorySegment.copy(values, ValueLayout.JAVA_DOUBLE, start * Double.BYTES, value, 0, width);
      double[] scores = new double[width];
      byte[] kept = new byte[width];
      for (int i = 0; i < width; i++) {
        if (i % pattern.group() == 0) {
          for (int j = i; j < i + pattern.group(); j++) {
            double scaled = value[j] / triangle[j * width + j];
            scores[j] = scaled * scaled;
          }
          pattern.keepLargest(scores, kept, i);
        }
        double error = kept[i] == 1 ? 0 : value[i] / triangle[i * width + i];
        errors.setAtIndex(ValueLayout.JAVA_DOUBLE, i, error);
        if (kept[i] == 0) {
          value[i] = 0;
          for (int j = i + 1; j < width; j++) {
            value[j] -= error * triangle[i * width + j];
          }
        }
      }
      MemorySegment.copy(value, 0, values, ValueLayout.JAVA_DOUBLE, start * Double.BYTES, width);
      MemorySegment.copy(kept, 0, keep, ValueLayout.JAVA_BYTE, start, width);
    }
  }
}
