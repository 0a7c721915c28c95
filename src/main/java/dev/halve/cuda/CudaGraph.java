package dev.halve.cuda;

/** A sequence of launches and copies, recorded once and launched as one. */
final class CudaGraph implements AutoCloseable {
  private final long executable;

  private CudaGraph(long executable) {
    this.executable = executable;
    OpenResources.opened();
  }

  /** Records what the work queues on the context's stream; nothing of it runs. */
  static CudaGraph record(CudaContext context, Runnable work) {
    CudaDriver.beginCapture(context.stream());
    long graph = 0;
    try {
      work.run();
    } finally {
      // Also after a failure: a stream left in capture can do nothing else.
      graph = CudaDriver.endCapture(context.stream());
    }
    try {
      return new CudaGraph(CudaDriver.instantiate(graph));
    } finally {
      CudaDriver.destroyGraph(graph);
    }
  }

  void launch(CudaContext context) {
    CudaDriver.launchGraph(executable, context.stream());
  }

  @Override
  public void close() {
    CudaDriver.destroyGraphExecutable(executable);
    OpenResources.closed();
  }
}
