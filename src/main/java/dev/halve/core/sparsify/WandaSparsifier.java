package dev.halve.core.sparsify;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.Function;

/**
 * Pruning by weight and activation: an element counts as its magnitude times the L2 norm of the
 * input it multiplies. Weights that stay are not changed. Sun, Liu, Bair and Kolter, "A Simple and
 * Effective Pruning Approach for Large Language Models", arXiv 2306.11695; with a group as long as
 * the input it is the paper's comparison within each output.
 */
public final class WandaSparsifier extends Sparsifier {
  private final NOfM pattern;
  private final Function<String, Tensor> inputNorms;

  /**
   * @param inputNorms for a layer's name the norms of its inputs over calibration text, F32 {@code
   *     [in]}: {@link InputNorms#norms}
   */
  public WandaSparsifier(NOfM pattern, Function<String, Tensor> inputNorms) {
    this.pattern = pattern;
    this.inputNorms = inputNorms;
  }

  @Override
  protected boolean fits(String layer, Shape weight) {
    return pattern.fits(weight);
  }

  @Override
  protected void update(String layer, Tensor weight, Tensor mask) {
    try {
      fill(weight, inputNorms.apply(layer), pattern, mask);
    } catch (HalveException unfit) {
      throw unfit.in(layer);
    }
  }

  /**
   * The mask of one weight, U8 {@code [out, in]}, owned by the arena.
   *
   * @param weight a host tensor {@code [out, in]} of a floating type
   * @param inputNorms F32 {@code [in]}
   * @throws HalveException if the shapes do not fit, or an element is not finite
   */
  public static Tensor mask(Arena arena, Tensor weight, Tensor inputNorms, NOfM pattern) {
    if (!pattern.fits(weight.shape())) {
      throw new HalveException("the weight " + weight + " cannot be " + pattern);
    }
    weight.requireFinite("the weight");
    Tensor mask = Tensor.allocate(arena, DType.U8, weight.shape().extents());
    fill(weight, inputNorms, pattern, mask);
    return mask;
  }

  private static void fill(Tensor weight, Tensor inputNorms, NOfM pattern, Tensor mask) {
    int in = Math.toIntExact(weight.extent(1));
    if (inputNorms == null || !inputNorms.shape().equals(Shape.of(in))) {
      throw new HalveException(
          "norms of inputs " + inputNorms + "; expected F32 [" + in + "]: calibrate this layer");
    }
    inputNorms.requireFinite("the norms of its inputs");
    float[] norms = inputNorms.toFloatArray();
    double[] scores = new double[in];
    byte[] keep = new byte[in];
    for (long row = 0; row < weight.extent(0); row++) {
      for (int i = 0; i < in; i++) {
        // In double precision no product of two floats overflows or vanishes.
        scores[i] = Math.abs((double) weight.getFloat(row * in + i)) * norms[i];
      }
      for (int first = 0; first < in; first += pattern.group()) {
        pattern.keepLargest(scores, keep, first);
      }
      MemorySegment.copy(keep, 0, mask.segment(), ValueLayout.JAVA_BYTE, row * in, in);
    }
  }
}
