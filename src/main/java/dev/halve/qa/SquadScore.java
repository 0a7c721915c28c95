package dev.halve.qa;

import dev.halve.core.HalveException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * Exact match and F1 over all questions of a data set, as the official SQuAD v1.1 evaluation counts
 * them: the best over a question's gold answers, and 0 for a question without a prediction.
 *
 * @param exactMatch in percent
 * @param f1 in percent
 * @param total how many questions there are
 * @param unanswered ids of the questions without a prediction, in the order of the data set
 */
public record SquadScore(double exactMatch, double f1, int total, List<String> unanswered) {
  public SquadScore {
    unanswered = List.copyOf(unanswered);
  }

  /**
   * @param predictions texts by question id; ids that the data set has not are passed over
   * @throws HalveException if the data set is empty or a question has no gold answer
   */
  public static SquadScore of(SquadDataset dataset, Map<String, String> predictions) {
    if (dataset.examples().isEmpty()) {
      throw new HalveException(dataset.name() + " has no questions to score");
    }
    double exact = 0;
    double f1 = 0;
    List<String> unanswered = new ArrayList<>();
    for (Example example : dataset.examples()) {
      if (example.answers().isEmpty()) {
        throw new HalveException(
            "%s: question %s has no gold answer to score with"
                .formatted(dataset.name(), Quoted.of(example.id())));
      }
      String prediction = predictions.get(example.id());
      if (prediction == null) {
        unanswered.add(example.id());
        continue;
      }
      List<String> words = AnswerNormalizer.words(prediction);
      double best = 0;
      boolean same = false;
      for (Answer answer : example.answers()) {
        List<String> gold = AnswerNormalizer.words(answer.text());
        same |= words.equals(gold);
        best = Math.max(best, f1(words, gold));
      }
      exact += same ? 1 : 0;
      f1 += best;
    }
    int total = dataset.examples().size();
    return new SquadScore(100 * exact / total, 100 * f1 / total, total, unanswered);
  }

  /** Whether two answers are the same when normalised. */
  public static boolean exactMatch(String prediction, String gold) {
    return AnswerNormalizer.words(prediction).equals(AnswerNormalizer.words(gold));
  }

  /** The harmonic mean of precision and recall over the words of two answers, in [0, 1]. */
  public static double f1(String prediction, String gold) {
    return f1(AnswerNormalizer.words(prediction), AnswerNormalizer.words(gold));
  }

  private static double f1(List<String> prediction, List<String> gold) {
    Map<String, Integer> left = new HashMap<>();
    for (String word : gold) {
      left.merge(word, 1, Integer::sum);
    }
    int same = 0;
    for (String word : prediction) {
      Integer count = left.get(word);
      if (count != null && count > 0) {
        left.put(word, count - 1);
        same++;
      }
    }
    if (same == 0) {
      return 0;
    }
    double precision = (double) same / prediction.size();
    double recall = (double) same / gold.size();
    return 2 * precision * recall / (precision + recall);
  }
}
