package dev.halve.cuda;

import java.lang.foreign.MemorySegment;
import java.util.Arrays;

/**
 * Copies small things up without waiting: through slots of page-locked memory, each used again only
 * when its last copy has ended.
 */
final class Staging implements AutoCloseable {
  /** What a slot holds: the ids of 40,000 tokens. */
  static final int SLOT_BYTES = 512 << 10;

  private static final int SLOTS = 16;

  private final CudaContext context;
  private final PinnedBuffer memory;
  private final long[] copied = new long[SLOTS];
  private final boolean[] used = new boolean[SLOTS];
  private int next;

  Staging(CudaContext context) {
    this.context = context;
    this.memory = new PinnedBuffer((long) SLOTS * SLOT_BYTES);
    for (int slot = 0; slot < SLOTS; slot++) {
      copied[slot] = CudaDriver.createOrderingEvent();
      OpenResources.opened();
    }
  }

  /** Queues a copy of at most {@link #SLOT_BYTES} bytes; the source may change at once. */
  void copy(MemorySegment source, long target) {
    int slot = next;
    next = (next + 1) % SLOTS;
    if (used[slot]) {
      CudaDriver.synchronizeEvent(copied[slot]);
    }
    used[slot] = true;
    MemorySegment place = memory.segment().asSlice((long) slot * SLOT_BYTES, source.byteSize());
    place.copyFrom(source);
    CudaDriver.copyToDevice(target, place.address(), place.byteSize(), context.stream());
    CudaDriver.record(copied[slot], context.stream());
  }

  @Override
  public void close() {
    Arrays.stream(copied)
        .forEach(event -> {
          CudaDriver.destroyEvent(event);
          OpenResources.closed();
        });
    memory.close();
  }
}
