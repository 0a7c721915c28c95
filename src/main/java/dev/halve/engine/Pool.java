package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;

/**
 * Owner of tensors in one device's memory: all that was allocated from it is freed when it closes.
 */
public interface Pool extends AutoCloseable {
  /** A tensor of zeros, aligned to {@link Tensor#ALIGNMENT} bytes at least. */
  Tensor allocate(DType dtype, long... extents);

  @Override
  void close();
}
