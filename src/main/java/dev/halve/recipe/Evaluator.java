package dev.halve.recipe;

import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.PackedBatch;
import dev.halve.qa.Answers;
import dev.halve.qa.QaFeature;
import dev.halve.qa.QaFeatures;
import dev.halve.qa.SquadDataset;
import dev.halve.qa.SquadScore;
import dev.halve.report.Score;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.function.BiConsumer;
import java.util.stream.IntStream;

/** Answers questions in batches of rows of similar lengths, on the compiled model. */
public final class Evaluator {
  private Evaluator() {}

  /**
   * @param predictions answers by question id
   * @param loss that training lowers: the mean over rows of the cross entropies of start and end,
   *     halved
   * @param seconds of the forward passes and the reading off of answers
   */
  public record Outcome(
      Map<String, String> predictions,
      SquadScore score,
      double loss,
      double seconds,
      double tokensPerS) {
    /** The scores as results have them. */
    Score scores() {
      return new Score(score.exactMatch(), score.f1());
    }
  }

  /**
   * Answers and scores.
   *
   * @param name of the stage
   * @param features of the data set's examples
   * @throws StoppedException if the listener asked for it
   */
  public static Outcome evaluate(
      BertForQuestionAnswering model,
      SquadDataset dataset,
      QaFeatures features,
      EvaluationSettings settings,
      String name,
      Progress progress) {
    long started = System.nanoTime();
    double[] loss = new double[1];
    Map<String, String> predictions =
        answers(
                model,
                features,
                settings,
                name,
                progress,
                (rows, logits) -> loss[0] += loss(features, rows, logits))
            .texts();
    double seconds = (System.nanoTime() - started) / 1e9;
    long tokens = features.features().stream().mapToLong(QaFeature::length).sum();
    return new Outcome(
        predictions,
        SquadScore.of(dataset, predictions),
        loss[0] / features.features().size(),
        seconds,
        tokens / seconds);
  }

  /**
   * Checks that a model takes the rows, before anything is spent on it.
   *
   * @throws dev.halve.core.HalveException naming the longest row
   */
  static void requireFit(QaFeatures features, BertConfig config) {
    int[] longest = batches(features.features(), 1).getFirst();
    pack(features, longest).check(config);
  }

  /** The answers to all examples. */
  static Answers answers(
      BertForQuestionAnswering model,
      QaFeatures features,
      EvaluationSettings settings,
      String name,
      Progress progress) {
    return answers(model, features, settings, name, progress, (rows, logits) -> {});
  }

  private static Answers answers(
      BertForQuestionAnswering model,
      QaFeatures features,
      EvaluationSettings settings,
      String name,
      Progress progress,
      BiConsumer<int[], float[]> seen) {
    List<int[]> batches = batches(features.features(), settings.batchSize());
    List<PackedBatch> packed = batches.stream().map(rows -> pack(features, rows)).toList();
    packed.forEach(batch -> batch.check(model.config()));
    int maxTokens = packed.stream().mapToInt(PackedBatch::tokens).max().orElse(1);
    int maxRows = packed.stream().mapToInt(PackedBatch::rows).max().orElse(1);
    Answers answers = new Answers(features, settings.nBest(), settings.maxAnswerTokens());
    Stage stage = Stage.begin(progress, name, features.features().size(), "rows");
    long done = 0;
    try (CompiledModel compiled = model.compile(maxTokens, maxRows)) {
      for (int batch = 0; batch < batches.size(); batch++) {
        stage.checkStop("its answers are not kept");
        float[] logits = compiled.run(packed.get(batch)).toFloatArray();
        answers.add(batches.get(batch), logits);
        seen.accept(batches.get(batch), logits);
        done += batches.get(batch).length;
        stage.advance(done, "");
      }
    }
    stage.end();
    return answers;
  }

  /** The sum over rows; a row without its answer has it at its first token, as in training. */
  private static double loss(QaFeatures features, int[] rows, float[] logits) {
    double sum = 0;
    int from = 0;
    for (int row : rows) {
      QaFeature feature = features.features().get(row);
      int[] targets = {feature.startPosition(), feature.endPosition()};
      for (int column = 0; column < 2; column++) {
        double most = Double.NEGATIVE_INFINITY;
        for (int token = 0; token < feature.length(); token++) {
          most = Math.max(most, logits[2 * (from + token) + column]);
        }
        double exponentials = 0;
        for (int token = 0; token < feature.length(); token++) {
          exponentials += Math.exp(logits[2 * (from + token) + column] - most);
        }
        sum += (most + Math.log(exponentials) - logits[2 * (from + targets[column]) + column]) / 2;
      }
      from += feature.length();
    }
    return sum;
  }

  /** Indices of rows, the longest first, so that a batch has rows of about one length. */
  private static List<int[]> batches(List<QaFeature> rows, int batchSize) {
    int[] order =
        IntStream.range(0, rows.size())
            .boxed()
            .sorted(Comparator.comparingInt(row -> -rows.get(row).length()))
            .mapToInt(Integer::intValue)
            .toArray();
    List<int[]> batches = new ArrayList<>();
    for (int from = 0; from < order.length; from += batchSize) {
      int[] batch = new int[Math.min(batchSize, order.length - from)];
      System.arraycopy(order, from, batch, 0, batch.length);
      batches.add(batch);
    }
    return batches;
  }

  private static PackedBatch pack(QaFeatures features, int[] rows) {
    int[][] tokenIds = new int[rows.length][];
    int[][] typeIds = new int[rows.length][];
    for (int i = 0; i < rows.length; i++) {
      QaFeature row = features.features().get(rows[i]);
      tokenIds[i] = row.inputIds();
      typeIds[i] = row.tokenTypeIds();
    }
    return PackedBatch.of(tokenIds, typeIds);
  }
}
