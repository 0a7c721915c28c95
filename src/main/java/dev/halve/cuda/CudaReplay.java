package dev.halve.cuda;

import dev.halve.core.HalveException;
import dev.halve.engine.BatchShape;
import dev.halve.engine.Replay;
import dev.halve.engine.StepScalars;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Set;

/**
 * Repeated work as CUDA graphs, one for each shape of batch. The first time the work runs as it is,
 * which compiles, measures and allocates what it needs; the second time it is recorded.
 */
final class CudaReplay implements Replay {
  /** Graphs hold device memory of their own; the one unused longest makes room. */
  private static final int KEPT_GRAPHS = 64;

  private final CudaContext context;
  private final Kernels kernels;
  private final CudaTraining training;
  private final Set<Start> seen = new HashSet<>();
  private final LinkedHashMap<Start, Recorded> graphs = new LinkedHashMap<>(16, 0.75f, true);

  /** What decides what the work queues: the shape, and the gradients that it may overwrite. */
  private record Start(BatchShape shape, StaleGradients.State stale) {}

  /**
   * @param stale the gradients that count as zero afterwards
   */
  private record Recorded(CudaGraph graph, StaleGradients.State stale) {}

  CudaReplay(CudaContext context, Kernels kernels, CudaTraining training) {
    this.context = context;
    this.kernels = kernels;
    this.training = training;
  }

  @Override
  public void run(BatchShape shape, StepScalars scalars, Runnable work) {
    context.makeCurrent();
    try {
      queue(shape, scalars, work);
    } catch (Throwable failed) {
      try {
        training.abandon();
      } catch (HalveException alsoFailed) {
        failed.addSuppressed(alsoFailed);
      }
      throw failed;
    }
  }

  private void queue(BatchShape shape, StepScalars scalars, Runnable work) {
    training.join();
    training.set(scalars);
    Start start = new Start(shape, training.stale().state());
    if (seen.isEmpty()) {
      kernels.compileAhead(() -> {
        work.run();
        training.join();
      });
      training.stale().set(start.stale);
    }
    Recorded recorded = graphs.get(start);
    if (recorded == null) {
      if (seen.add(start)) {
        work.run();
        return;
      }
      CudaGraph graph = training.record(work);
      recorded = new Recorded(graph, training.stale().state());
      graphs.put(start, recorded);
      if (graphs.size() > KEPT_GRAPHS) {
        context.synchronize();
        graphs.pollFirstEntry().getValue().graph.close();
      }
    }
    recorded.graph.launch(context);
    training.stale().set(recorded.stale);
  }

  @Override
  public void close() {
    context.makeCurrent();
    context.synchronize();
    graphs.values().forEach(each -> each.graph.close());
    graphs.clear();
  }
}
