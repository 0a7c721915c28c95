package dev.halve.cuda;

import java.util.Arrays;

/** Times work on a stream with two of the device's events. */
final class Stopwatch implements AutoCloseable {
  private final CudaContext context;
  private final long start;
  private final long end;

  Stopwatch(CudaContext context) {
    this.context = context;
    this.start = CudaDriver.createEvent();
    OpenResources.opened();
    this.end = CudaDriver.createEvent();
    OpenResources.opened();
  }

  /** Milliseconds that the device spends on the work. */
  float millis(Runnable work) {
    CudaDriver.record(start, context.stream());
    work.run();
    CudaDriver.record(end, context.stream());
    CudaDriver.synchronizeEvent(end);
    return CudaDriver.elapsedMillis(start, end);
  }

  /** The median of so many timings, after one that does not count. */
  float medianMillis(int repeats, Runnable work) {
    work.run();
    float[] all = new float[repeats];
    for (int i = 0; i < repeats; i++) {
      all[i] = millis(work);
    }
    Arrays.sort(all);
    return all[repeats / 2];
  }

  @Override
  public void close() {
    CudaDriver.destroyEvent(start);
    OpenResources.closed();
    CudaDriver.destroyEvent(end);
    OpenResources.closed();
  }
}
