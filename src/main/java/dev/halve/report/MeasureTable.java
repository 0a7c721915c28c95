package dev.halve.report;

import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.stream.Stream;

/**
 * The tutorial's table: what dense and 2:4 come to, and how they differ. Scores by their
 * difference, times by the speed-up, sizes by the share that is left.
 */
final class MeasureTable {
  /** Rows of one kind, which belong together. */
  enum Group {
    SCORES("Scores", "Difference"),
    TIMES("Time of a forward pass", "Speed-up"),
    SIZES("Size", "Left");

    private final String title;
    private final String change;

    Group(String title, String change) {
      this.title = title;
      this.change = change;
    }

    String title() {
      return title;
    }

    /** What a row's change is. */
    String change() {
      return change;
    }
  }

  /**
   * @param amount the number that {@code change} shows
   * @param better whether 2:4 loses nothing by the measure
   */
  record Row(
      Group group,
      String metric,
      String dense,
      String sparse,
      double amount,
      String change,
      boolean better) {}

  private MeasureTable() {}

  static List<Row> rows(Results results) {
    List<Row> rows = new ArrayList<>();
    rows.add(score("Exact match", results.dense().exactMatch(), results.sparse().exactMatch()));
    rows.add(score("F1", results.dense().f1(), results.sparse().f1()));
    for (LatencyRow dense : results.latency()) {
      if (dense.weights().equals("dense")) {
        sparseTwins(results, dense).map(sparse -> time(dense, sparse)).forEach(rows::add);
      }
    }
    ModelSize size = results.size();
    rows.add(size("Model file", size.denseFile(), size.sparseFile()));
    rows.add(size("Linear weights, file", size.denseLinear(), size.sparseLinear()));
    rows.add(size("Linear weights, memory", size.denseMemory(), size.sparseMemory()));
    return rows;
  }

  private static Stream<LatencyRow> sparseTwins(Results results, LatencyRow dense) {
    return results.latency().stream()
        .filter(row ->
            !row.weights().equals("dense")
                && row.engine().equals(dense.engine())
                && row.mode().equals(dense.mode())
                && row.batch() == dense.batch()
                && row.seq() == dense.seq());
  }

  private static Row score(String metric, double dense, double sparse) {
    return new Row(
        Group.SCORES,
        metric,
        Numbers.score(dense),
        Numbers.score(sparse),
        sparse - dense,
        Numbers.signed(sparse - dense),
        sparse >= dense);
  }

  private static Row time(LatencyRow dense, LatencyRow sparse) {
    double speedup = dense.msP50() / sparse.msP50();
    return new Row(
        Group.TIMES,
        "Batch %s × %s, %s".formatted(dense.batch(), dense.seq(), dense.mode()),
        Numbers.milliseconds(dense.msP50()),
        Numbers.milliseconds(sparse.msP50()),
        speedup,
        Numbers.times(speedup),
        speedup >= 1);
  }

  private static Row size(String metric, long dense, long sparse) {
    double left = (double) sparse / dense;
    return new Row(
        Group.SIZES,
        metric,
        Numbers.bytes(dense),
        Numbers.bytes(sparse),
        left,
        Numbers.times(left),
        sparse <= dense);
  }

  /** The table as text, with what it is about above it. */
  static String text(Results results) {
    StringBuilder text = new StringBuilder();
    text.append("Model      ").append(results.model()).append('\n');
    text.append("Questions  ").append(results.data()).append(", ");
    text.append(Numbers.count(results.trainQuestions())).append(" to learn from, ");
    text.append(Numbers.count(results.evalQuestions())).append(" asked\n");
    text.append("Device     ").append(results.device()).append('\n');
    Group group = null;
    for (Row row : rows(results)) {
      if (row.group() != group) {
        group = row.group();
        text.append('\n')
            .append(line(group.title(), "dense", "2:4", group.change().toLowerCase(Locale.ROOT)));
        text.append("-".repeat(72)).append('\n');
      }
      text.append(line(row.metric(), row.dense(), row.sparse(), row.change()));
    }
    text.append('\n');
    text.append(line("Stage", "exact match", "F1", ""));
    text.append("-".repeat(72)).append('\n');
    text.append(stage("Dense", results.dense()));
    text.append(stage("Pruned, not retrained", results.pruned()));
    text.append(stage("Retrained under the mask", results.retrained()));
    text.append(stage("Compressed", results.sparse()));
    return text.toString();
  }

  private static String stage(String name, Score score) {
    return line(name, Numbers.score(score.exactMatch()), Numbers.score(score.f1()), "");
  }

  private static String line(String metric, String dense, String sparse, String change) {
    return "%-30s%14s%14s%14s".formatted(metric, dense, sparse, change).stripTrailing() + "\n";
  }
}
