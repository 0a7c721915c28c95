package dev.halve.engine;

import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.lang.foreign.Arena;

/**
 * A compressed weight in the order in which one device's kernels read it; made by {@link
 * Device#pack}.
 */
public interface PackedWeight {
  /** Device memory that it takes, in bytes. */
  long bytes();

  /** The weight as it was before packing, in the device's compute type. */
  SparseSemiStructuredTensor unpack(Arena arena);
}
