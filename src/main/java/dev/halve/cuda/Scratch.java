package dev.halve.cuda;

/** Device memory for one operation at a time, grown to the largest so far. */
final class Scratch implements AutoCloseable {
  private final CudaContext context;
  private long address;
  private long bytes;

  Scratch(CudaContext context) {
    this.context = context;
  }

  /** At least so many bytes, undefined; valid until the next call. */
  long take(long needed) {
    if (needed > bytes) {
      close();
      address = context.allocate(needed);
      bytes = needed;
    }
    return address;
  }

  @Override
  public void close() {
    if (bytes > 0) {
      // In the order of the stream: what was queued still finds its memory.
      context.free(address);
      bytes = 0;
    }
  }
}
