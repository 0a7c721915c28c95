package dev.halve.qa;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Reads answers off the logits: of every row the likeliest starts and ends, of their pairs the one
 * with the largest sum that is a span of the context and not too long, and of all rows of a
 * question the best. Equal sums go to the earlier row, likelier start, likelier end. For one
 * thread.
 */
public final class Answers {
  /** The usual number of starts and of ends that are tried. */
  public static final int N_BEST = 20;

  /** The usual longest answer, in tokens. */
  public static final int MAX_ANSWER_TOKENS = 30;

  private final QaFeatures features;
  private final int maxAnswerTokens;
  private final Best starts;
  private final Best ends;
  private final Prediction[] best;

  /**
   * A predicted answer.
   *
   * @param text of the context, from {@code start} to {@code end}
   * @param score the sum of the two logits
   * @param feature the row that it was read off
   */
  public record Prediction(String text, int start, int end, float score, int feature) {}

  public Answers(QaFeatures features, int nBest, int maxAnswerTokens) {
    this.features = features;
    this.maxAnswerTokens = maxAnswerTokens;
    int longest =
        features.features().stream().mapToInt(row -> row.inputIds().length).max().orElse(0);
    this.starts = new Best(Math.min(nBest, longest));
    this.ends = new Best(Math.min(nBest, longest));
    this.best = new Prediction[features.examples().size()];
  }

  /**
   * Takes in a packed batch.
   *
   * @param rows indices of the batch's rows in {@link QaFeatures#features()}
   * @param logits {@code [tokens, 2]}: start and end, row after row without padding; NaN is never
   *     chosen
   */
  public void add(int[] rows, float[] logits) {
    int token = 0;
    for (int row : rows) {
      int length = features.features().get(row).length();
      starts.choose(logits, 2 * token, 2, length);
      ends.choose(logits, 2 * token + 1, 2, length);
      combine(row);
      token += length;
    }
  }

  private void combine(int feature) {
    QaFeature row = features.features().get(feature);
    Prediction leader = best[row.example()];
    float score = 0;
    int start = -1;
    int end = -1;
    for (int s = 0; s < starts.count; s++) {
      int from = starts.positions[s];
      if (!row.isContext(from)) {
        continue;
      }
      for (int e = 0; e < ends.count; e++) {
        int to = ends.positions[e];
        float sum = starts.values[s] + ends.values[e];
        if (to >= from
            && to - from < maxAnswerTokens
            && row.isContext(to)
            && (start < 0 ? !Float.isNaN(sum) : sum > score)) {
          score = sum;
          start = from;
          end = to;
        }
      }
    }
    if (start < 0
        || (leader != null
            && (leader.score() > score
                || (leader.score() == score && leader.feature() < feature)))) {
      return;
    }
    int startChar = row.contextStart(start);
    int endChar = row.contextEnd(end);
    String text = features.examples().get(row.example()).context().substring(startChar, endChar);
    best[row.example()] = new Prediction(text, startChar, endChar, score, feature);
  }

  /**
   * The answer to a question: that with the largest score over its rows, null where no row had a
   * span to offer.
   *
   * @param example index in {@link QaFeatures#examples()}
   */
  public Prediction best(int example) {
    return best[example];
  }

  /** Answers of all questions by id, in their order; "" where no row had a span to offer. */
  public Map<String, String> texts() {
    List<Example> examples = features.examples();
    Map<String, String> texts = LinkedHashMap.newLinkedHashMap(examples.size());
    for (int i = 0; i < examples.size(); i++) {
      texts.put(examples.get(i).id(), best[i] == null ? "" : best[i].text());
    }
    return texts;
  }

  /** The largest of some numbers with their positions, in descending order, earlier first. */
  private static final class Best {
    final float[] values;
    final int[] positions;
    int count;

    Best(int capacity) {
      values = new float[capacity];
      positions = new int[capacity];
    }

    /** An insertion into a short sorted list: few of many numbers ever enter it. */
    void choose(float[] numbers, int from, int step, int length) {
      count = 0;
      for (int position = 0; position < length; position++) {
        float value = numbers[from + position * step];
        if (Float.isNaN(value) || (count == values.length && value <= values[count - 1])) {
          continue;
        }
        int place = count < values.length ? count++ : count - 1;
        for (; place > 0 && values[place - 1] < value; place--) {
          values[place] = values[place - 1];
          positions[place] = positions[place - 1];
        }
        values[place] = value;
        positions[place] = position;
      }
    }
  }
}
