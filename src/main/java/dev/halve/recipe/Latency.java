package dev.halve.recipe;

import dev.halve.engine.PackedBatch;
import dev.halve.report.LatencyRow;
import java.util.List;

/** Times forward passes of several candidates in turn, so that what disturbs one disturbs all. */
public final class Latency {
  private Latency() {}

  /**
   * Something that runs a batch to its end, results on the host.
   *
   * @param engine {@code halve}, {@code onnxruntime}
   * @param weights {@code dense} or {@code 2:4}
   * @param mode {@code eager} or {@code compiled}
   */
  public record Candidate(String engine, String weights, String mode, Forward forward) {}

  /** One forward pass, done when it returns. */
  @FunctionalInterface
  public interface Forward {
    void run(PackedBatch batch);
  }

  /**
   * One row for each batch and candidate.
   *
   * @param settings whose batch sizes and seq are not looked at
   */
  public static List<LatencyRow> measure(
      List<PackedBatch> batches,
      List<Candidate> candidates,
      LatencySettings settings,
      Progress progress) {
    throw new UnsupportedOperationException("being written");
  }
}
