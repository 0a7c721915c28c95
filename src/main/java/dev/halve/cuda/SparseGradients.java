package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.extent;

import dev.halve.core.Tensor;
import dev.halve.engine.Parameter;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.WeakHashMap;

/**
 * Tables of which a step has gradients for few rows, as word embeddings. Of each row there is kept
 * whether its gradient and its moments can be other than zero, so that the optimizer leaves alone
 * what a dense step would not change; its results are the same bits.
 */
final class SparseGradients {
  /** As {@code ANYTHING} in adamw.cu. */
  private static final byte ANYTHING = 2;

  private final CudaContext context;
  private final CudaTraining training;
  private final Map<Tensor, Table> tables = new WeakHashMap<>();

  /**
   * @param states address of a byte for each row
   */
  private record Table(long states, int rows, List<Tensor> moments) {}

  SparseGradients(CudaContext context, CudaTraining training) {
    this.context = context;
    this.training = training;
  }

  /**
   * The address of the states of a gradient's rows, {@code [rows, width]}; who adds to a row marks
   * it.
   */
  long states(Tensor gradient) {
    Table table = tables.get(gradient);
    if (table == null) {
      if (context.recording()) {
        throw new IllegalStateException("a table's first gradient in recorded work");
      }
      int rows = extent(gradient, 0);
      table = new Table(training.allocate(rows), rows, new ArrayList<>());
      tables.put(gradient, table);
      reset(table);
    }
    return table.states;
  }

  /** Whether the optimizer is to take a parameter row by row. */
  boolean has(Parameter parameter) {
    Table table = tables.get(parameter.gradient());
    if (table == null || parameter.mask() != null) {
      return false;
    }
    if (table.moments.isEmpty()) {
      table.moments.add(parameter.firstMoment());
      table.moments.add(parameter.secondMoment());
    }
    return true;
  }

  /** After something else has written a tensor. */
  void written(Tensor tensor) {
    tables.forEach((gradient, table) -> {
      if (gradient == tensor || table.moments.contains(tensor)) {
        reset(table);
      }
    });
  }

  private void reset(Table table) {
    CudaDriver.fill(table.states, ANYTHING, table.rows, context.stream());
  }
}
