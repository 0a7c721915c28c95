package dev.halve.core.sparsify;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;

/**
 * The L2 norm of each input of a linear layer over calibration text, summed in double precision.
 */
public final class InputNorms {
  private final double[] squares;

  /**
   * @param in the layer's inputs
   */
  public InputNorms(int in) {
    this.squares = new double[in];
  }

  /** Adds what went into the layer: a host tensor F32 {@code [tokens, in]}. */
  public void add(Tensor inputs) {
    if (inputs.shape().rank() != 2 || inputs.extent(1) != squares.length) {
      throw new IllegalArgumentException(inputs + " for " + squares.length + " inputs");
    }
    long index = 0;
    for (long token = 0; token < inputs.extent(0); token++) {
      for (int i = 0; i < squares.length; i++) {
        double value = inputs.segment().getAtIndex(ValueLayout.JAVA_FLOAT, index++);
        squares[i] += value * value;
      }
    }
  }

  /**
   * The norms, F32 {@code [in]}, owned by the arena.
   *
   * @throws HalveException if the inputs held NaN or infinity
   */
  public Tensor norms(Arena arena) {
    float[] norms = new float[squares.length];
    for (int i = 0; i < norms.length; i++) {
      if (!Double.isFinite(squares[i])) {
        throw new HalveException("the calibration inputs hold NaN or infinity; find sound weights");
      }
      norms[i] = (float) Math.sqrt(squares[i]);
    }
    return Tensor.of(arena, norms, norms.length);
  }
}
