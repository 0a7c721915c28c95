package dev.halve.recipe;

import dev.halve.engine.BertConfig;
import dev.halve.engine.PackedBatch;
import dev.halve.report.LatencyRow;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

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

  /** Batches of full rows of random tokens, by the settings' batch sizes and seq. */
  public static List<PackedBatch> batches(BertConfig config, LatencySettings settings) {
    List<PackedBatch> batches = new ArrayList<>();
    for (int batch : settings.batchSizes()) {
      Random random = new Random(batch);
      int[][] tokenIds = new int[batch][settings.seq()];
      int[][] typeIds = new int[batch][settings.seq()];
      for (int row = 0; row < batch; row++) {
        Arrays.setAll(tokenIds[row], token -> random.nextInt(config.vocabSize()));
        Arrays.setAll(typeIds[row], token -> token < 16 ? 0 : config.typeVocabSize() - 1);
      }
      PackedBatch packed = PackedBatch.of(tokenIds, typeIds);
      packed.check(config);
      batches.add(packed);
    }
    return batches;
  }

  /**
   * One row for each batch and candidate.
   *
   * @param settings whose batch sizes and seq are not looked at
   * @throws StoppedException if the listener asked for it
   */
  public static List<LatencyRow> measure(
      List<PackedBatch> batches,
      List<Candidate> candidates,
      LatencySettings settings,
      Progress progress) {
    List<LatencyRow> rows = new ArrayList<>();
    Stage stage = Stage.begin(progress, "latency", batches.size(), "batch sizes");
    for (PackedBatch batch : batches) {
      double[][] times = times(batch, candidates, settings, stage);
      for (int candidate = 0; candidate < candidates.size(); candidate++) {
        rows.add(row(candidates.get(candidate), batch, times[candidate]));
      }
      stage.advance(rows.size() / candidates.size(), "");
    }
    stage.end();
    return rows;
  }

  /** Milliseconds by candidate and repeat. */
  private static double[][] times(
      PackedBatch batch, List<Candidate> candidates, LatencySettings settings, Stage stage) {
    // Once at least: the first pass compiles, allocates, and meets cold code.
    long began = System.nanoTime();
    for (int pass = 0;
        pass == 0 || (pass < settings.warmup() && seconds(began) < settings.maxSeconds());
        pass++) {
      for (Candidate candidate : candidates) {
        stage.checkStop("its times are not kept");
        candidate.forward().run(batch);
      }
    }
    double[][] times = new double[candidates.size()][settings.repeats()];
    long started = System.nanoTime();
    int done = 0;
    while (done < settings.repeats() && (done < 3 || seconds(started) < settings.maxSeconds())) {
      for (int candidate = 0; candidate < candidates.size(); candidate++) {
        stage.checkStop("its times are not kept");
        long start = System.nanoTime();
        candidates.get(candidate).forward().run(batch);
        times[candidate][done] = (System.nanoTime() - start) / 1e6;
      }
      done++;
    }
    for (int candidate = 0; candidate < candidates.size(); candidate++) {
      times[candidate] = Arrays.copyOf(times[candidate], done);
    }
    return times;
  }

  private static double seconds(long since) {
    return (System.nanoTime() - since) / 1e9;
  }

  private static LatencyRow row(Candidate candidate, PackedBatch batch, double[] times) {
    double[] sorted = times.clone();
    Arrays.sort(sorted);
    double median = percentile(sorted, 0.5);
    return new LatencyRow(
        candidate.engine(),
        candidate.weights(),
        candidate.mode(),
        batch.rows(),
        batch.longestRow(),
        batch.tokens(),
        percentile(sorted, 0.1),
        median,
        percentile(sorted, 0.9),
        batch.tokens() / median * 1000);
  }

  /** Between the two nearest ranks, as NumPy has it. */
  static double percentile(double[] ascending, double share) {
    double rank = share * (ascending.length - 1);
    int below = (int) rank;
    int above = Math.min(below + 1, ascending.length - 1);
    return ascending[below] + (rank - below) * (ascending[above] - ascending[below]);
  }
}
