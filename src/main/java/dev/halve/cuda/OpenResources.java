package dev.halve.cuda;

import java.util.concurrent.atomic.AtomicLong;

/** Counts native resources that were opened and not yet closed, for the test that finds leaks. */
final class OpenResources {
  private static final AtomicLong OPEN = new AtomicLong();

  private OpenResources() {}

  static void opened() {
    OPEN.incrementAndGet();
  }

  static void closed() {
    OPEN.decrementAndGet();
  }

  /** Contexts, modules, streams, events, graphs, and blocks of device and pinned memory. */
  static long count() {
    return OPEN.get();
  }
}
