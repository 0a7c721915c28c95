package dev.halve.engine;

import dev.halve.core.Shape;
import java.util.List;

/** What a {@link Linear} multiplies by; the shape is {@code [out, in]} for every kind. */
public sealed interface Weight {
  Shape shape();

  /** All elements of a parameter: what products read as a dense weight, and training changes. */
  sealed interface Trainable extends Weight {
    Parameter parameter();

    @Override
    default Shape shape() {
      return parameter().value().shape();
    }
  }

  /** A weight without a mask. */
  record Dense(Parameter parameter) implements Trainable {}

  /**
   * A dense weight under a mask, for training: the parameter's {@code mask} is set, and its masked
   * elements are zero at every step.
   */
  record Masked(Parameter parameter) implements Trainable {}

  /**
   * A 2:4 weight for inference, held only in the device's own packing.
   *
   * @param shape the dense shape
   */
  record Compressed(Shape shape, PackedWeight packed) implements Weight {}

  /**
   * A weight for inference of which some rows are dense and some 2:4; each part is a product of its
   * own. A GPU runs it compiled alone, and there as a dense one.
   *
   * @param name the parameter's name
   * @param shape of all rows
   * @param parts dense and compressed weights, in the order of the rows
   */
  record Hybrid(String name, Shape shape, List<Weight> parts) implements Weight {}
}
