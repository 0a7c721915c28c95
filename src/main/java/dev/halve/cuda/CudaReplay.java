package dev.halve.cuda;

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
  private final CudaTraining training;
  private final Set<BatchShape> seen = new HashSet<>();
  private final LinkedHashMap<BatchShape, CudaGraph> graphs = new LinkedHashMap<>(16, 0.75f, true);

  CudaReplay(CudaContext context, CudaTraining training) {
    this.context = context;
    this.training = training;
  }

  @Override
  public void run(BatchShape shape, StepScalars scalars, Runnable work) {
    context.makeCurrent();
    training.join();
    training.set(scalars);
    CudaGraph graph = graphs.get(shape);
    if (graph == null) {
      if (seen.add(shape)) {
        work.run();
        return;
      }
      graph = training.record(work);
      graphs.put(shape, graph);
      if (graphs.size() > KEPT_GRAPHS) {
        context.synchronize();
        graphs.pollFirstEntry().getValue().close();
      }
    }
    graph.launch(context);
  }

  @Override
  public void close() {
    context.makeCurrent();
    context.synchronize();
    graphs.values().forEach(CudaGraph::close);
    graphs.clear();
  }
}
