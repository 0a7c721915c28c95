package dev.halve.cpu;

import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.locks.LockSupport;
import java.util.concurrent.locks.ReentrantLock;

/**
 * A fixed team of threads that shares out the parts of one task at a time. The caller is a member
 * and works too; a part goes to whoever claims it first, so a member that the operating system has
 * put aside delays nobody. Handing over takes a few hundred nanoseconds while the members are awake
 * and allocates nothing.
 *
 * <p>Members wait for the next task by spinning for {@link #SPIN_NANOS}, go on for {@link
 * #YIELD_NANOS} letting others have the core, then park. Inside a forward pass nobody parks: a
 * thread that is woken often lands on its waker's own core, and the two then share it.
 */
final class ThreadTeam implements AutoCloseable {
  private static final long SPIN_NANOS = 20_000;

  private static final long YIELD_NANOS = 2_000_000;

  /** Scratch memory of each member: what a kernel needs at the edges of a tile. */
  static final long SCRATCH_BYTES = 16 << 10;

  /** What the team works on; {@code member} is in {@code [0, size)} and free for scratch space. */
  @FunctionalInterface
  interface Task {
    void run(int part, int member);
  }

  /** Which task (high half) and how many of its parts are still unclaimed (low half). */
  private final AtomicLong unclaimed = new AtomicLong();

  private final AtomicInteger unfinished = new AtomicInteger();
  private final ReentrantLock oneTaskAtATime = new ReentrantLock();
  private final Worker[] workers;
  private final int[] threads;
  private final Cores cores;
  private final Arena arena = Arena.ofShared();
  private final long[] scratch;

  // Written before `unclaimed` is published and read after a claim on it: never torn or stale.
  private Task task;
  private int parts;

  private volatile Throwable failure;
  private volatile Thread waitingCaller;
  private volatile boolean closed;

  /** A team of {@code size} members: the caller and {@code size - 1} daemon threads. */
  ThreadTeam(int size) {
    if (size < 1) {
      throw new IllegalArgumentException("a team needs at least one member, not " + size);
    }
    scratch = new long[size];
    for (int member = 0; member < size; member++) {
      scratch[member] = arena.allocate(SCRATCH_BYTES, Tensor.ALIGNMENT).address();
    }
    cores = new Cores(size);
    threads = new int[size - 1];
    workers = new Worker[size - 1];
    for (int i = 0; i < workers.length; i++) {
      workers[i] = new Worker(i + 1);
      workers[i].start();
    }
  }

  int size() {
    return workers.length + 1;
  }

  /** Address of a member's {@link #SCRATCH_BYTES}. */
  long scratch(int member) {
    return scratch[member];
  }

  /**
   * Runs {@code task} once for every part in {@code [0, parts)} and returns when all are done. The
   * writes of all parts are visible to the caller afterwards. Called from inside a part, it runs
   * everything on the calling thread; called from several threads at once, one waits for the other.
   *
   * <p>If a part throws, parts that nobody has begun are skipped and its exception is thrown here.
   */
  void run(int parts, Task task) {
    if (Thread.currentThread() instanceof Worker worker && worker.team() == this) {
      runInline(parts, task, worker.member);
      return;
    }
    boolean nested = oneTaskAtATime.isHeldByCurrentThread();
    oneTaskAtATime.lock();
    try {
      if (closed) {
        throw new IllegalStateException("the thread team is closed");
      }
      if (nested || parts <= 1 || workers.length == 0) {
        runInline(parts, task, 0);
      } else {
        runShared(parts, task);
      }
    } finally {
      oneTaskAtATime.unlock();
    }
  }

  /** Ends the threads; waits for a task in progress. */
  @Override
  public void close() {
    oneTaskAtATime.lock();
    try {
      if (closed) {
        return;
      }
      closed = true;
    } finally {
      oneTaskAtATime.unlock();
    }
    boolean interrupted = false;
    for (Worker worker : workers) {
      LockSupport.unpark(worker);
      while (worker.isAlive()) {
        try {
          worker.join();
        } catch (InterruptedException e) {
          interrupted = true;
        }
      }
    }
    arena.close();
    cores.close();
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  private static void runInline(int parts, Task task, int member) {
    for (int part = 0; part < parts; part++) {
      task.run(part, member);
    }
  }

  private void runShared(int parts, Task task) {
    cores.leave(threads);
    this.task = task;
    this.parts = parts;
    failure = null;
    unfinished.set(parts);
    long generation = (unclaimed.get() >>> 32) + 1;
    unclaimed.set(generation << 32 | parts);
    for (int i = 0; i < Math.min(workers.length, parts - 1); i++) {
      if (workers[i].parked) {
        LockSupport.unpark(workers[i]);
      }
    }
    work(0);
    awaitFinish();
    this.task = null;
    if (failure != null) {
      rethrow(failure);
    }
  }

  /** Claims and runs parts until none is left. */
  private void work(int member) {
    while (true) {
      long state = unclaimed.get();
      int left = (int) state;
      if (left == 0) {
        return;
      }
      if (unclaimed.compareAndSet(state, state - 1)) {
        runPart(parts - left, member);
      }
    }
  }

  private void runPart(int part, int member) {
    try {
      if (failure == null) {
        task.run(part, member);
      }
    } catch (Throwable e) {
      failure = e;
    }
    if (unfinished.decrementAndGet() == 0) {
      Thread caller = waitingCaller;
      if (caller != null) {
        LockSupport.unpark(caller);
      }
    }
  }

  private void awaitFinish() {
    long start = System.nanoTime();
    while (unfinished.get() != 0) {
      if (waitedSince(start)) {
        waitingCaller = Thread.currentThread();
        while (unfinished.get() != 0) {
          LockSupport.park(this);
        }
        waitingCaller = null;
      }
    }
  }

  /** Waits a little; true once it is time to park. */
  private static boolean waitedSince(long start) {
    long waited = System.nanoTime() - start;
    if (waited < SPIN_NANOS) {
      Thread.onSpinWait();
    } else {
      Thread.yield();
    }
    return waited > YIELD_NANOS;
  }

  private static void rethrow(Throwable failure) {
    switch (failure) {
      case RuntimeException e -> throw e;
      case Error e -> throw e;
      default -> throw new IllegalStateException(failure);
    }
  }

  private final class Worker extends Thread {
    private final int member;
    private volatile boolean parked;

    private Worker(int member) {
      super("halve-cpu-" + member);
      this.member = member;
      setDaemon(true);
    }

    private ThreadTeam team() {
      return ThreadTeam.this;
    }

    @Override
    public void run() {
      threads[member - 1] = cores.thread();
      long idleSince = System.nanoTime();
      while (!closed) {
        if ((int) unclaimed.get() != 0) {
          work(member);
          idleSince = System.nanoTime();
        } else if (waitedSince(idleSince)) {
          parked = true;
          // The caller publishes parts before it looks at `parked`, so one of the two sees the
          // other.
          while ((int) unclaimed.get() == 0 && !closed) {
            LockSupport.park(ThreadTeam.this);
          }
          parked = false;
          idleSince = System.nanoTime();
        }
      }
    }
  }
}
