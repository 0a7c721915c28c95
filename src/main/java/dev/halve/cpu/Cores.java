package dev.halve.cpu;

import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.Optional;

/**
 * Keeps the threads of a team off their caller's core. Linux wakes a thread on its waker's core
 * gladly, and moves it only at a tick of the clock: until then two threads share one core while the
 * other idles, which halves the speed of tasks that take a millisecond. On other systems, and where
 * the process may use one core alone, this does nothing.
 */
final class Cores implements AutoCloseable {
  /** Of a mask of cores: as many as the C library's own has. */
  private static final int MASK_BYTES = 128;

  private static final MethodHandle CURRENT =
      function("sched_getcpu", FunctionDescriptor.of(ValueLayout.JAVA_INT)).orElse(null);
  private static final MethodHandle THREAD =
      function("gettid", FunctionDescriptor.of(ValueLayout.JAVA_INT)).orElse(null);
  private static final MethodHandle ALLOWED = mask("sched_getaffinity");
  private static final MethodHandle ALLOW = mask("sched_setaffinity");

  private final Arena arena = Arena.ofShared();
  private final MemorySegment all = arena.allocate(MASK_BYTES, Long.BYTES);
  private final MemorySegment others = arena.allocate(MASK_BYTES, Long.BYTES);
  private final boolean known;
  private int left = -1;

  /** For a team of so many threads, the caller included. */
  Cores(int threads) {
    boolean found =
        CURRENT != null
            && THREAD != null
            && ALLOWED != null
            && ALLOW != null
            && threads > 1
            && System.getProperty("os.name").equals("Linux");
    known = found && call(ALLOWED, 0, all) == 0 && count() >= threads;
  }

  private static Optional<MethodHandle> function(String name, FunctionDescriptor type) {
    Linker linker = Linker.nativeLinker();
    return linker
        .defaultLookup()
        .find(name)
        .map(address -> linker.downcallHandle(address, type, Linker.Option.critical(false)));
  }

  private static MethodHandle mask(String name) {
    return function(
            name,
            FunctionDescriptor.of(
                ValueLayout.JAVA_INT,
                ValueLayout.JAVA_INT,
                ValueLayout.JAVA_LONG,
                ValueLayout.ADDRESS))
        .orElse(null);
  }

  private static int call(MethodHandle function, int thread, MemorySegment mask) {
    try {
      return (int) function.invokeExact(thread, (long) MASK_BYTES, mask);
    } catch (Throwable impossible) {
      throw new IllegalStateException(impossible);
    }
  }

  private int count() {
    int count = 0;
    for (long at = 0; at < MASK_BYTES; at += Long.BYTES) {
      count += Long.bitCount(all.get(ValueLayout.JAVA_LONG, at));
    }
    return count;
  }

  /** The calling thread as {@link #leave} names it; 0 where nothing is known. */
  int thread() {
    try {
      return known ? (int) THREAD.invokeExact() : 0;
    } catch (Throwable impossible) {
      throw new IllegalStateException(impossible);
    }
  }

  /** Keeps the threads off the core that the caller runs on now. */
  void leave(int[] threads) {
    if (!known) {
      return;
    }
    int core;
    try {
      core = (int) CURRENT.invokeExact();
    } catch (Throwable impossible) {
      throw new IllegalStateException(impossible);
    }
    if (core == left || core < 0 || core >= MASK_BYTES * Byte.SIZE) {
      return;
    }
    others.copyFrom(all);
    long at = core / Long.SIZE * (long) Long.BYTES;
    long word = others.get(ValueLayout.JAVA_LONG, at);
    others.set(ValueLayout.JAVA_LONG, at, word & ~(1L << core % Long.SIZE));
    left = core;
    for (int thread : threads) {
      // A thread that has not begun is moved the next time.
      if (thread == 0 || call(ALLOW, thread, others) != 0) {
        left = -1;
      }
    }
  }

  @Override
  public void close() {
    arena.close();
  }
}
