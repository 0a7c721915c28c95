package dev.halve.cuda;

/** A sequence of launches and copies, recorded once and launched as one. */
final class CudaGraph implements AutoCloseable {
  private final long executable;

  private CudaGraph(long executable) {
    this.executable = executable;
    OpenResources.opened();
  }

  /** As {@link CudaContext#record} says. */
  static CudaGraph record(CudaContext context, Runnable work) {
    long graph = context.record(work);
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
