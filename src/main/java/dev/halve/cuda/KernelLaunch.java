package dev.halve.cuda;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;

/**
 * A launch under construction: function, grid, arguments. One object serves all launches of a
 * stream, since the driver copies what it is given; nothing is allocated per launch.
 */
final class KernelLaunch {
  private static final int ARGUMENTS = 24;
  private static final int SLOT_BYTES = 128;
  private static final int CONFIG_BYTES = 56;
  private static final int ATTRIBUTE_BYTES = 72;
  private static final int CLUSTER_DIMENSION = 4;
  private static final int PROGRAMMATIC_SERIALIZATION = 6;

  private final long stream;
  private final MemorySegment config;
  private final MemorySegment attributes;
  private final MemorySegment slots;
  private final MemorySegment pointers;
  private Kernel kernel;
  private int arguments;
  private int attributeCount;

  /** The stream and arena live as long as this. */
  KernelLaunch(Arena arena, long stream) {
    this.stream = stream;
    config = arena.allocate(CONFIG_BYTES, 8);
    attributes = arena.allocate(2L * ATTRIBUTE_BYTES, 8);
    config.set(JAVA_LONG, 40, attributes.address());
    slots = arena.allocate((long) ARGUMENTS * SLOT_BYTES, SLOT_BYTES);
    pointers = arena.allocate(ADDRESS, ARGUMENTS);
    for (int i = 0; i < ARGUMENTS; i++) {
      pointers.setAtIndex(ADDRESS, i, slots.asSlice((long) i * SLOT_BYTES));
    }
  }

  /**
   * Starts a launch.
   *
   * @param x, y, z blocks of the grid
   */
  KernelLaunch of(Kernel kernel, long x, int y, int z) {
    this.kernel = kernel;
    arguments = 0;
    attributeCount = 0;
    config.set(JAVA_INT, 0, Math.toIntExact(x));
    config.set(JAVA_INT, 4, y);
    config.set(JAVA_INT, 8, z);
    config.set(JAVA_INT, 12, kernel.threads());
    config.set(JAVA_INT, 16, 1);
    config.set(JAVA_INT, 20, 1);
    config.set(JAVA_INT, 24, kernel.sharedBytes());
    config.set(JAVA_LONG, 32, stream);
    return this;
  }

  /** The same on a grid of one dimension. */
  KernelLaunch of(Kernel kernel, long blocks) {
    return of(kernel, blocks, 1, 1);
  }

  /** On another stream than this object's own. */
  KernelLaunch on(long other) {
    config.set(JAVA_LONG, 32, other);
    return this;
  }

  /** Blocks next to one another in the grid that share their shared memory. */
  KernelLaunch cluster(int blocks) {
    if (blocks > 1) {
      MemorySegment attribute = attribute(CLUSTER_DIMENSION);
      attribute.set(JAVA_INT, 8, blocks);
      attribute.set(JAVA_INT, 12, 1);
      attribute.set(JAVA_INT, 16, 1);
    }
    return this;
  }

  /** Lets the kernel start before its predecessor has ended; it waits by itself. */
  KernelLaunch overlapping(boolean allowed) {
    if (allowed) {
      attribute(PROGRAMMATIC_SERIALIZATION).set(JAVA_INT, 8, 1);
    }
    return this;
  }

  private MemorySegment attribute(int id) {
    MemorySegment attribute =
        attributes.asSlice((long) attributeCount * ATTRIBUTE_BYTES, ATTRIBUTE_BYTES);
    attributeCount++;
    attribute.fill((byte) 0);
    attribute.set(JAVA_INT, 0, id);
    return attribute;
  }

  KernelLaunch with(long addressOrCount) {
    slots.set(JAVA_LONG, slot(), addressOrCount);
    return this;
  }

  KernelLaunch with(Tensor tensor) {
    return with(tensor.segment().address());
  }

  KernelLaunch with(int value) {
    slots.set(JAVA_INT, slot(), value);
    return this;
  }

  KernelLaunch with(float value) {
    slots.set(JAVA_FLOAT, slot(), value);
    return this;
  }

  /** A structure by value, of at most 128 bytes. */
  KernelLaunch with(MemorySegment structure) {
    MemorySegment.copy(structure, 0, slots, slot(), structure.byteSize());
    return this;
  }

  private long slot() {
    return (long) arguments++ * SLOT_BYTES;
  }

  /** Queues the launch; a kernel without a function stands for one that is not to run. */
  void launch() {
    if (kernel.function() == 0) {
      return;
    }
    config.set(JAVA_INT, 48, attributeCount);
    CudaDriver.launch(config, kernel.function(), pointers, kernel.name());
  }

  /**
   * A loaded kernel.
   *
   * @param function the driver's handle, valid while its module is loaded; 0 in a rehearsal
   * @param threads of a block
   * @param sharedBytes of dynamic shared memory a block
   * @param blocks how many the whole GPU holds at once
   */
  record Kernel(String name, long function, int threads, int sharedBytes, int blocks) {}
}
