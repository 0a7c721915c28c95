package dev.halve.core.sparsify;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;

/** {@code xᵀ · x} by its formula in double precision; what moments are made of. */
public final class Gram {
  private Gram() {}

  /**
   * @param x F32 {@code [tokens, in]}
   * @return F32 {@code [in, in]}, NaN below the diagonal, where nothing may read it
   */
  public static Tensor of(Arena arena, Tensor x) {
    int in = (int) x.extent(1);
    double[] sums = new double[in * in];
    for (long token = 0; token < x.extent(0); token++) {
      for (int i = 0; i < in; i++) {
        double left = x.getFloat(token * in + i);
        for (int j = i; j < in; j++) {
          sums[i * in + j] += left * x.getFloat(token * in + j);
        }
      }
    }
    Tensor products = Tensor.allocate(arena, DType.F32, in, in);
    for (int i = 0; i < in; i++) {
      for (int j = 0; j < in; j++) {
        products.setFloat((long) i * in + j, j < i ? Float.NaN : (float) sums[i * in + j]);
      }
    }
    return products;
  }
}
