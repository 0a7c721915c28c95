package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.engine.BertConfig;
import dev.halve.engine.PackedBatch;
import dev.halve.report.LatencyRow;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;

/** Times forward passes of several candidates in turn, so that what disturbs one disturbs all. */
public final class Latency {
  /** Token ids below are special or unused in BERT's vocabularies. */
  private static final int FIRST_ORDINARY_TOKEN = 1000;

  /** Tokens of the question, before the context. */
  private static final int QUESTION_TOKENS = 20;

  /**
   * The share of a pass's time by which another must be faster to say that code still gets faster.
   */
  private static final double NOISE = 0.02;

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
   * A batch of random tokens for each of the settings' batch sizes, the same on every run.
   *
   * @param lengths a file with the length of a row on each line, used in turn and over again; null
   *     for rows of full length
   * @throws HalveException if a full row is longer than the model takes
   */
  static List<PackedBatch> batches(BertConfig config, LatencySettings settings, Path lengths) {
    int seq = settings.seq();
    if (seq > config.maxPositionEmbeddings()) {
      throw new HalveException(
          "rows of %d tokens are longer than the model's %d positions; lower seq to %d"
              .formatted(seq, config.maxPositionEmbeddings(), config.maxPositionEmbeddings()));
    }
    int[] rowLengths = lengths == null ? new int[] {seq} : lengths(lengths, seq);
    SplittableRandom random = new SplittableRandom(1);
    List<PackedBatch> batches = new ArrayList<>();
    for (int rows : settings.batchSizes()) {
      int[][] ids = new int[rows][];
      int[][] types = new int[rows][];
      for (int row = 0; row < rows; row++) {
        int length = rowLengths[row % rowLengths.length];
        ids[row] = new int[length];
        types[row] = new int[length];
        int first = Math.min(FIRST_ORDINARY_TOKEN, config.vocabSize() - 1);
        for (int token = 0; token < length; token++) {
          ids[row][token] = random.nextInt(first, config.vocabSize());
          types[row][token] = token < QUESTION_TOKENS || config.typeVocabSize() < 2 ? 0 : 1;
        }
      }
      batches.add(PackedBatch.of(ids, types));
    }
    return batches;
  }

  private static int[] lengths(Path file, int most) {
    List<String> lines;
    try {
      lines = Files.readAllLines(file);
    } catch (IOException unreadable) {
      throw HalveException.of("read", file, unreadable);
    }
    int[] lengths = new int[lines.size()];
    for (int line = 0; line < lengths.length; line++) {
      String text = lines.get(line).strip();
      if (!text.matches("[1-9]\\d{0,6}")) {
        throw new HalveException(
            "%s, line %d: expected the length of a row, found '%s'"
                .formatted(file, line + 1, text.length() > 40 ? text.substring(0, 40) : text));
      }
      lengths[line] = Math.min(Integer.parseInt(text), most);
    }
    if (lengths.length == 0) {
      throw new HalveException(file + " is empty; expected the length of a row on each line");
    }
    return lengths;
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

  /**
   * Once at least: the first pass compiles, allocates, and meets cold code. The JIT works beside
   * the passes, so they go on until half of them have brought nothing faster.
   */
  private static void warmUp(
      PackedBatch batch, List<Candidate> candidates, LatencySettings settings, Stage stage) {
    long began = System.nanoTime();
    double fastest = Double.POSITIVE_INFINITY;
    int fastestPass = 0;
    int pass = 0;
    do {
      double before = seconds(began);
      for (Candidate candidate : candidates) {
        stage.checkStop("its times are not kept");
        candidate.forward().run(batch);
      }
      pass++;
      double took = seconds(began) - before;
      if (took < (1 - NOISE) * fastest) {
        fastest = took;
        fastestPass = pass;
      }
    } while (settings.warmup() > 0
        && pass < Math.max(settings.warmup(), 2 * fastestPass)
        && seconds(began) < settings.maxSeconds());
  }

  /** Milliseconds by candidate and repeat. */
  private static double[][] times(
      PackedBatch batch, List<Candidate> candidates, LatencySettings settings, Stage stage) {
    warmUp(batch, candidates, settings, stage);
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
