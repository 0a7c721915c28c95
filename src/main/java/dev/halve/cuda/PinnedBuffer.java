package dev.halve.cuda;

import java.lang.foreign.MemorySegment;

/** Page-locked host memory, which the copy engine reads and writes while the host does not wait. */
final class PinnedBuffer implements AutoCloseable {
  private final long address;
  private final MemorySegment segment;

  PinnedBuffer(long bytes) {
    address = CudaDriver.allocatePinned(Math.max(bytes, 1));
    OpenResources.opened();
    segment = MemorySegment.ofAddress(address).reinterpret(bytes);
  }

  MemorySegment segment() {
    return segment;
  }

  @Override
  public void close() {
    CudaDriver.freePinned(address);
    OpenResources.closed();
  }
}
