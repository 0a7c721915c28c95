package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;

class AnswersTest {
  /** Rows of three question tokens and a context of words "0 1 2 …", one token each. */
  private static QaFeatures features(int contextTokens, int... windows) {
    StringBuilder context = new StringBuilder();
    int[] starts = new int[contextTokens];
    int[] ends = new int[contextTokens];
    for (int i = 0; i < contextTokens; i++) {
      starts[i] = context.length();
      context.append(i);
      ends[i] = context.length();
      context.append(' ');
    }
    Tokens tokens = new Tokens(new int[contextTokens], starts, ends);
    List<QaFeature> rows = new ArrayList<>();
    int from = 0;
    for (int window : windows) {
      rows.add(new QaFeature(0, new int[window + 4], 3, tokens, from, window, 1, 0, 0));
      from += window;
    }
    Example example = new Example("q", "?", context.toString(), List.of());
    return new QaFeatures(List.of(example), rows);
  }

  private static float[] logits(int length, Object... positionsAndValues) {
    float[] logits = new float[length];
    Arrays.fill(logits, -10);
    for (int i = 0; i < positionsAndValues.length; i += 2) {
      logits[(int) positionsAndValues[i]] = ((Number) positionsAndValues[i + 1]).floatValue();
    }
    return logits;
  }

  private static Answers answers(QaFeatures features) {
    return new Answers(features, Answers.N_BEST, Answers.MAX_ANSWER_TOKENS);
  }

  private static void add(Answers answers, int row, float[] starts, float[] ends) {
    float[] logits = new float[2 * starts.length];
    for (int i = 0; i < starts.length; i++) {
      logits[2 * i] = starts[i];
      logits[2 * i + 1] = ends[i];
    }
    answers.add(new int[] {row}, logits);
  }

  @Test
  void takesTheSpanWithTheLargestSum() {
    Answers answers = answers(features(10, 10));
    add(answers, 0, logits(14, 5, 3, 8, 4), logits(14, 6, 2, 7, 5));
    assertThat(answers.best(0)).isEqualTo(new Answers.Prediction("2 3 4", 4, 9, 8, 0));
    assertThat(answers.texts()).containsExactly(java.util.Map.entry("q", "2 3 4"));
  }

  @Test
  void passesOverSpansOutsideTheContextOrBackwardOrTooLong() {
    Answers answers = answers(features(60, 60));
    add(
        answers,
        0,
        logits(64, 0, 99, 1, 50, 63, 80, 40, 9, 10, 5),
        logits(64, 0, 99, 2, 50, 63, 80, 5, 9, 39, 7, 40, 1));
    assertThat(answers.best(0).text()).as("30 tokens").startsWith("7 8 ").endsWith(" 35 36");
    assertThat(answers.best(0).score()).isEqualTo(12);
    Answers shorter = new Answers(features(60, 60), Answers.N_BEST, 29);
    add(shorter, 0, logits(64, 10, 5), logits(64, 39, 7));
    assertThat(shorter.best(0).score()).isLessThan(12);
  }

  @Test
  void triesTheLikeliestOnly() {
    Answers answers = new Answers(features(10, 10), 2, 30);
    add(answers, 0, logits(14, 0, 9, 1, 8, 5, 7), logits(14, 0, 9, 1, 8, 6, 7));
    assertThat(answers.best(0)).isNull();
    assertThat(answers.texts()).containsEntry("q", "");
  }

  @Test
  void triesAllWhereMoreAreAskedForThanThereAre() {
    Answers answers = new Answers(features(10, 10), Integer.MAX_VALUE, 30);
    add(answers, 0, logits(14, 0, 9, 1, 8, 5, 7), logits(14, 0, 9, 1, 8, 6, 7));
    assertThat(answers.best(0).score()).isEqualTo(14);
  }

  @Test
  void takesTheBestOverTheWindowsInWhateverOrderTheyCome() {
    float[][] starts = {logits(9, 3, 1), logits(9, 4, 5), logits(8, 3, 5)};
    float[][] ends = {logits(9, 3, 1), logits(9, 4, 5), logits(8, 3, 5)};
    for (int[] order : new int[][] {{0, 1, 2}, {2, 1, 0}, {1, 0, 2}}) {
      Answers answers = answers(features(14, 5, 5, 4));
      for (int row : order) {
        add(answers, row, starts[row], ends[row]);
      }
      assertThat(answers.best(0)).isEqualTo(new Answers.Prediction("6", 12, 13, 10, 1));
    }
  }

  @Test
  void neverChoosesNaN() {
    Answers answers = answers(features(4, 4));
    float[] nan = new float[8];
    Arrays.fill(nan, Float.NaN);
    add(answers, 0, nan, nan.clone());
    assertThat(answers.best(0)).isNull();
    float[] start = nan.clone();
    float[] end = nan.clone();
    start[4] = -3;
    end[5] = Float.NEGATIVE_INFINITY;
    add(answers, 0, start, end);
    assertThat(answers.best(0).text()).isEqualTo("1 2");
  }

  @Test
  void readsABatchAsItsRowsOneByOne() {
    QaFeatures features = features(30, 12, 10, 8);
    Random random = new Random(3);
    Answers packed = answers(features);
    Answers single = answers(features);
    int[] rows = {2, 0, 1};
    float[] logits = new float[2 * (12 + 16 + 14)];
    int token = 0;
    for (int row : rows) {
      int length = features.features().get(row).length();
      float[] start = new float[length];
      float[] end = new float[length];
      for (int i = 0; i < length; i++, token++) {
        logits[2 * token] = start[i] = random.nextFloat();
        logits[2 * token + 1] = end[i] = random.nextFloat();
      }
      add(single, row, start, end);
    }
    packed.add(rows, logits);
    assertThat(packed.best(0)).isNotNull().isEqualTo(single.best(0));
  }

  /** Against every pair of fully sorted starts and ends. */
  @Test
  void agreesWithAFullSort() {
    Random random = new Random(11);
    for (int round = 0; round < 300; round++) {
      int tokens = 1 + random.nextInt(80);
      int nBest = 1 + random.nextInt(25);
      int longest = 1 + random.nextInt(12);
      QaFeatures features = features(tokens, tokens);
      float[] start = new float[tokens + 4];
      float[] end = new float[tokens + 4];
      for (int i = 0; i < start.length; i++) {
        start[i] = random.nextInt(50);
        end[i] = random.nextInt(50);
      }
      Answers answers = new Answers(features, nBest, longest);
      add(answers, 0, start, end);
      float score = Float.NEGATIVE_INFINITY;
      String text = null;
      for (int s : sorted(start, nBest)) {
        for (int e : sorted(end, nBest)) {
          boolean span = s >= 3 && e < tokens + 3 && s <= e && e - s + 1 <= longest;
          if (span && start[s] + end[e] > score) {
            score = start[s] + end[e];
            text =
                String.join(
                    " ", IntStream.rangeClosed(s - 3, e - 3).mapToObj(Integer::toString).toList());
          }
        }
      }
      assertThat(answers.best(0) == null ? null : answers.best(0).text()).isEqualTo(text);
    }
  }

  private static List<Integer> sorted(float[] logits, int nBest) {
    return IntStream.range(0, logits.length)
        .boxed()
        .sorted(Comparator.comparingDouble(i -> -logits[i]))
        .limit(nBest)
        .toList();
  }
}
