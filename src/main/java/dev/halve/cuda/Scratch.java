package dev.halve.cuda;

import java.util.ArrayList;
import java.util.List;

/**
 * Device memory for one operation at a time, as large as the largest so far. What it has outgrown
 * it keeps: recorded launches go on using it.
 */
final class Scratch implements AutoCloseable {
  private final CudaContext context;
  private final List<Long> addresses = new ArrayList<>();
  private long bytes;

  Scratch(CudaContext context) {
    this.context = context;
  }

  /** At least so many bytes, undefined; for work that is queued before the next call. */
  long take(long needed) {
    if (addresses.isEmpty() || needed > bytes) {
      // Twice as large each time, so that what is kept is never more than what is used.
      long size = Math.max(needed, 2 * bytes);
      addresses.add(context.allocate(size));
      bytes = size;
    }
    return addresses.getLast();
  }

  @Override
  public void close() {
    // In the order of the stream: what was queued still finds its memory.
    addresses.forEach(context::free);
    addresses.clear();
    bytes = 0;
  }
}
