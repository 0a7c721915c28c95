package dev.halve.cpu;

import dev.halve.core.DType;
import java.lang.foreign.MemorySegment;

/** Memory of one member of a team that grows to what was asked for last. */
final class Scratch implements AutoCloseable {
  private ArenaPool pool = new ArenaPool();
  private MemorySegment segment = MemorySegment.NULL;

  MemorySegment floats(long count) {
    if (segment.byteSize() < count * 4) {
      pool.close();
      pool = new ArenaPool();
      segment = pool.allocate(DType.F32, count).segment();
    }
    return segment;
  }

  @Override
  public void close() {
    pool.close();
  }
}
