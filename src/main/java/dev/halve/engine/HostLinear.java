package dev.halve.engine;

import dev.halve.core.Tensor;
import java.lang.foreign.Arena;

/**
 * A product on the host, {@code y = weight · x + bias}, for heads: a few rows a batch, so that
 * moving them to a device would cost more.
 *
 * @param transposed {@code [in, out]}, so that outputs lie side by side
 */
record HostLinear(float[] transposed, float[] bias) {
  /**
   * @param weight {@code [out, in]}
   */
  static HostLinear of(Tensor weight, Tensor bias) {
    try (Arena scratch = Arena.ofConfined()) {
      return new HostLinear(weight.transposed(scratch).toFloatArray(), bias.toFloatArray());
    }
  }

  int out() {
    return bias.length;
  }

  float[] apply(float[] x) {
    int out = bias.length;
    float[] y = bias.clone();
    for (int i = 0; i < x.length; i++) {
      float factor = x[i];
      for (int o = 0; o < out; o++) {
        y[o] += factor * transposed[i * out + o];
      }
    }
    return y;
  }
}
