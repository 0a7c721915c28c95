package dev.halve.core.sparsify;

import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import java.util.Arrays;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * An N:M pattern: of every {@code group} neighbours along the input, {@code kept} stay. With a
 * group as long as the input it is unstructured pruning, by the same number in every row.
 */
public record NOfM(int kept, int group) {
  /** What sparse tensor cores and this library's kernels multiply with. */
  public static final NOfM TWO_OF_FOUR = new NOfM(2, 4);

  private static final Pattern TEXT = Pattern.compile("(\\d{1,6}):(\\d{1,6})");

  /**
   * @throws HalveException unless {@code 1 <= kept <= group}
   */
  public NOfM {
    if (kept < 1 || kept > group) {
      throw new HalveException(
          "a pattern of " + kept + ":" + group + "; expected N:M with N from 1 to M");
    }
  }

  /**
   * Reads {@code 2:4}.
   *
   * @throws HalveException if the text is no N:M pattern
   */
  public static NOfM parse(String text) {
    Matcher matcher = TEXT.matcher(text);
    if (!matcher.matches()) {
      throw new HalveException("'" + text + "' is no pattern; expected N:M, such as 2:4");
    }
    return new NOfM(Integer.parseInt(matcher.group(1)), Integer.parseInt(matcher.group(2)));
  }

  /** Whether the input of a weight {@code [out, in]} is made of whole groups. */
  public boolean fits(Shape weight) {
    return weight.rank() == 2 && weight.extent(1) % group == 0;
  }

  /**
   * Marks the elements of one group that have the largest scores. Of equal ones those nearest to
   * the beginning stay.
   *
   * @param scores zero or more, without NaN; read from {@code first} on
   * @param keep set to 1 where an element stays and to 0 elsewhere, from {@code first} on
   */
  void keepLargest(double[] scores, byte[] keep, int first) {
    if (group <= 16) {
      for (int i = first; i < first + group; i++) {
        int better = 0;
        for (int j = first; j < first + group; j++) {
          better += scores[j] > scores[i] || (scores[j] == scores[i] && j < i) ? 1 : 0;
        }
        keep[i] = (byte) (better < kept ? 1 : 0);
      }
      return;
    }
    double[] sorted = Arrays.copyOfRange(scores, first, first + group);
    Arrays.sort(sorted);
    double threshold = sorted[group - kept];
    int equal = kept;
    for (int i = first; i < first + group; i++) {
      keep[i] = (byte) (scores[i] > threshold ? 1 : 0);
      equal -= keep[i];
    }
    for (int i = first; i < first + group && equal > 0; i++) {
      if (scores[i] == threshold) {
        keep[i] = 1;
        equal--;
      }
    }
  }

  @Override
  public String toString() {
    return kept + ":" + group;
  }
}
