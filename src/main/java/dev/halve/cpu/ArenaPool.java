package dev.halve.cpu;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.engine.Pool;
import java.lang.foreign.Arena;

/** Host memory as a pool. */
final class ArenaPool implements Pool {
  private final Arena arena = Arena.ofShared();

  @Override
  public Tensor allocate(DType dtype, long... extents) {
    return Tensor.allocate(arena, dtype, extents);
  }

  @Override
  public void close() {
    arena.close();
  }
}
