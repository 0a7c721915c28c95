package dev.halve.core.sparsify;

import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
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

  /** Outputs that one task takes: rows do not depend on each other. */
  private static final int ROWS = 64;

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
   * @param weight a host tensor {@code [out, in]} of a floating type, free of NaN
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
    MemorySegment factor = moments.inverseFactor(damping).segment();
    // Tasks work on copies that any thread may touch, which the caller's tensors need not allow.
    try (Arena scratch = Arena.ofShared()) {
      MemorySegment values = scratch.allocate(weight.elements() * Double.BYTES, Tensor.ALIGNMENT);
      MemorySegment keep = scratch.allocate(weight.elements());
      for (long i = 0; i < weight.elements(); i++) {
        int input = (int) (i % in);
        double value = moments.get(input, input) == 0 ? 0 : weight.getFloat(i);
        values.setAtIndex(ValueLayout.JAVA_DOUBLE, i, value);
      }
      int out = Math.toIntExact(weight.extent(0));
      IntStream.range(0, Math.ceilDiv(out, ROWS))
          .parallel()
          .mapToObj(task -> rows(task * ROWS, out, in, values, keep, factor, pattern))
          .forEach(Rows::prune);
      for (long i = 0; i < weight.elements(); i++) {
        weight.setFloat(i, (float) values.getAtIndex(ValueLayout.JAVA_DOUBLE, i));
      }
      mask.segment().copyFrom(keep);
    }
  }

  private static Rows rows(
      int first,
      int out,
      int in,
      MemorySegment values,
      MemorySegment keep,
      MemorySegment factor,
      NOfM pattern) {
    int count = Math.min(ROWS, out - first);
    long start = (long) first * in;
    long elements = (long) count * in;
    return new Rows(
        count,
        in,
        values.asSlice(start * Double.BYTES, elements * Double.BYTES),
        keep.asSlice(start, elements),
        factor,
        pattern);
  }

  /**
   * Some rows of a weight on their way through all inputs.
   *
   * @param values F64 {@code [count, in]}
   * @param keep U8 {@code [count, in]}
   * @param factor F64 {@code [in, in]}
   */
  private record Rows(
      int count,
      int in,
      MemorySegment values,
      MemorySegment keep,
      MemorySegment factor,
      NOfM pattern) {
    void prune() {
      int block = Math.ceilDiv(BLOCK, pattern.group()) * pattern.group();
      try (Arena scratch = Arena.ofConfined()) {
        MemorySegment errors =
            scratch.allocate((long) count * block * Double.BYTES, Tensor.ALIGNMENT);
        for (int first = 0; first < in; first += block) {
          int width = Math.min(block, in - first);
          double[] triangle = triangle(first, width);
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
                errors,
                0,
                block,
                factor,
                corner,
                in,
                values,
                behind,
                in);
          }
        }
      }
    }

    /** The factor's square on the diagonal for a block of inputs, {@code [width, width]}. */
    private double[] triangle(int first, int width) {
      double[] triangle = new double[width * width];
      for (int i = 0; i < width; i++) {
        for (int j = i; j < width; j++) {
          triangle[i * width + j] =
              factor.getAtIndex(ValueLayout.JAVA_DOUBLE, (long) (first + i) * in + first + j);
        }
      }
      return triangle;
    }

    private void pruneBlock(
        int row, int first, int width, double[] triangle, MemorySegment errors) {
      long start = (long) row * in + first;
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
