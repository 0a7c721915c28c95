package dev.halve.cpu;

import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.PackedWeight;
import dev.halve.engine.Pool;
import java.lang.foreign.Arena;

/**
 * A 2:4 weight for products of any number of tokens: as panels of many read it, and from the first
 * product of a few on, also as their tiles do.
 */
final class CpuSparseWeight implements PackedWeight {
  private final Pool pool;
  private final PairedSparseWeight paired;
  private TiledSparseWeight tiled;

  private CpuSparseWeight(Pool pool, PairedSparseWeight paired) {
    this.pool = pool;
    this.paired = paired;
  }

  /** Packs a compressed weight into memory of the pool. */
  static CpuSparseWeight pack(Pool pool, SparseSemiStructuredTensor weight) {
    return new CpuSparseWeight(pool, PairedSparseWeight.pack(pool, weight));
  }

  PairedSparseWeight paired() {
    return paired;
  }

  synchronized TiledSparseWeight tiled() {
    if (tiled == null) {
      try (Arena arena = Arena.ofConfined()) {
        tiled = TiledSparseWeight.pack(pool, unpack(arena));
      }
    }
    return tiled;
  }

  @Override
  public synchronized long bytes() {
    return paired.bytes() + (tiled == null ? 0 : tiled.bytes());
  }

  @Override
  public SparseSemiStructuredTensor unpack(Arena arena) {
    return paired.unpack(arena);
  }
}
