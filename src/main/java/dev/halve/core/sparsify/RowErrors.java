package dev.halve.core.sparsify;

import dev.halve.core.Tensor;

/** What a change of a layer's weight does to each of its outputs. */
@FunctionalInterface
public interface RowErrors {
  /** By the weight alone, as if every input counted as much. */
  RowErrors OF_THE_WEIGHT = delta -> of(delta, null);

  /** By the norms of the inputs, F32 {@code [in]}, as if they did not depend on each other. */
  static RowErrors ofNorms(Tensor norms) {
    return delta -> of(delta, norms);
  }

  /**
   * @param delta a host tensor {@code [out, in]} of a floating type
   * @return {@code [out]}, squared
   * @see InputMoments#squaredErrors
   */
  double[] of(Tensor delta);

  private static double[] of(Tensor delta, Tensor norms) {
    double[] errors = new double[Math.toIntExact(delta.extent(0))];
    long in = delta.extent(1);
    for (long i = 0; i < delta.elements(); i++) {
      double norm = norms == null ? 1 : norms.getFloat(i % in);
      double change = delta.getFloat(i) * norm;
      errors[(int) (i / in)] += change * change;
    }
    return errors;
  }
}
