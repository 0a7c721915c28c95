package dev.halve.cuda;

import dev.halve.core.HalveException;

/**
 * One GPU in use: the driver's primary context on it and the stream that the work of a {@link
 * CudaDevice} goes through, in order; what training forks off joins it again.
 */
final class CudaContext implements AutoCloseable {
  private final int index;
  private final GpuProperties properties;
  private final long context;
  private final long stream;
  private boolean rehearsing;
  private boolean recording;

  /**
   * @throws HalveException if the GPU cannot be used, with the reason and the way out
   */
  CudaContext(int index) {
    CudaDiscovery.requireUsable(index);
    this.index = index;
    this.properties = GpuProperties.of(index);
    this.context = CudaDriver.retainPrimaryContext(index);
    OpenResources.opened();
    CudaDriver.setCurrent(context);
    CudaDriver.keepFreedMemory(index);
    this.stream = CudaDriver.createStream();
    OpenResources.opened();
  }

  String name() {
    return "cuda:" + index;
  }

  GpuProperties properties() {
    return properties;
  }

  long stream() {
    return stream;
  }

  /** Makes this the context of the calling thread: a device may move between threads. */
  void makeCurrent() {
    CudaDriver.setCurrent(context);
  }

  /**
   * Runs work of which no kernel and no product is launched: it only says what it will need.
   *
   * @see Kernels#compileAhead
   */
  void rehearse(Runnable work) {
    rehearsing = true;
    try {
      work.run();
    } finally {
      rehearsing = false;
    }
  }

  boolean rehearsing() {
    return rehearsing;
  }

  /**
   * Records what work queues on the stream; nothing of it runs. The work may not ask for memory: it
   * would be the graph's, and gone with it.
   *
   * @return the driver's graph
   */
  long record(Runnable work) {
    CudaDriver.beginCapture(stream);
    recording = true;
    try {
      work.run();
    } catch (Throwable failed) {
      // A stream left in capture can do nothing else.
      try {
        CudaDriver.destroyGraph(CudaDriver.endCapture(stream));
      } catch (HalveException alsoFailed) {
        failed.addSuppressed(alsoFailed);
      }
      throw failed;
    } finally {
      recording = false;
    }
    return CudaDriver.endCapture(stream);
  }

  boolean recording() {
    return recording;
  }

  void synchronize() {
    CudaDriver.synchronize(stream);
  }

  /**
   * Device memory, whose content is undefined.
   *
   * @throws HalveException if too little is free
   */
  long allocate(long bytes) {
    if (recording) {
      throw new IllegalStateException("memory asked for in recorded work");
    }
    long address = CudaDriver.allocate(Math.max(bytes, 1), stream);
    if (address == 0) {
      // Memory that the driver's pool holds back for reuse may be what is missing.
      synchronize();
      address = CudaDriver.allocate(Math.max(bytes, 1), stream);
    }
    if (address == 0) {
      long[] info = CudaDriver.memoryInfo();
      throw new HalveException(
          "%s is out of memory: %s asked for, %s of %s free; use a smaller batch or model"
              .formatted(name(), gibibytes(bytes), gibibytes(info[0]), gibibytes(info[1])));
    }
    OpenResources.opened();
    return address;
  }

  void free(long address) {
    CudaDriver.free(address, stream);
    OpenResources.closed();
  }

  private static String gibibytes(long bytes) {
    return "%.2f GiB".formatted(bytes / (double) (1L << 30));
  }

  @Override
  public void close() {
    makeCurrent();
    CudaDriver.destroyStream(stream);
    OpenResources.closed();
    CudaDriver.releasePrimaryContext(index);
    OpenResources.closed();
  }
}
