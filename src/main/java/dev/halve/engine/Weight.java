package dev.halve.engine;

import dev.halve.core.Shape;

/** What a {@link Linear} multiplies by; the shape is {@code [out, in]} for every kind. */
public sealed interface Weight {
  Shape shape();

  /** All elements, trainable. */
  record Dense(Parameter parameter) implements Weight {
    @Override
    public Shape shape() {
      return parameter.value().shape();
    }
  }

  /**
   * A dense weight under a mask, for training: the parameter's {@code mask} is set, and its masked
   * elements are zero at every step, so that a product reads it as a dense weight.
   */
  record Masked(Parameter parameter) implements Weight {
    @Override
    public Shape shape() {
      return parameter.value().shape();
    }
  }

  /**
   * A 2:4 weight for inference, held only in the device's own packing.
   *
   * @param name the parameter's name
   * @param shape the dense shape
   */
  record Compressed(String name, Shape shape, PackedWeight packed) implements Weight {}
}
