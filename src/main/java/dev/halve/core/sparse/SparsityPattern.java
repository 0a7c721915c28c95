package dev.halve.core.sparse;

import dev.halve.core.Tensor;
import java.util.Locale;

/**
 * Where the zeros of a weight lie, found by looking: groups are neighbours along the last axis, the
 * input of a linear layer.
 *
 * @param kind what the zeros amount to
 * @param kept for {@link Kind#N_OF_M} the most nonzeros a group holds, else 0
 * @param group for {@link Kind#N_OF_M} the size of a group, else 0
 * @param zeros elements equal to zero, -0.0 included
 * @param elements all elements
 * @param semiStructured whether {@link SparseSemiStructuredTensor} holds such a weight, be it 2:4
 *     or sparser
 */
public record SparsityPattern(
    Kind kind, int kept, int group, long zeros, long elements, boolean semiStructured) {
  /** What the zeros of a weight amount to. */
  public enum Kind {
    /** Under one element in a hundred is zero. */
    DENSE,
    /** Every group of M neighbours holds at most N nonzeros: 2:4 and its kin. */
    N_OF_M,
    /** Many zeros, in no such order. */
    UNSTRUCTURED
  }

  private static final int[] GROUPS = {2, 4, 8, 16, 32};

  /**
   * The pattern of a host tensor of a floating type and rank 1 or more. Of several N:M that hold,
   * the sparsest, then the one of the smallest groups. Groups over 4 count only when at least 19 in
   * 20 of the places they leave are taken: a large group with one zero is chance, not a pattern.
   */
  public static SparsityPattern of(Tensor weight) {
    long columns = weight.extent(-1);
    int[] most = new int[GROUPS.length];
    long zeros = 0;
    for (long first = 0; first < weight.elements(); first += columns) {
      int[] count = new int[GROUPS.length];
      for (long column = 0; column < columns; column++) {
        int nonzero = weight.getFloat(first + column) != 0 ? 1 : 0;
        zeros += 1 - nonzero;
        for (int g = 0; g < GROUPS.length; g++) {
          count[g] = (column % GROUPS[g] == 0 ? 0 : count[g]) + nonzero;
          most[g] = Math.max(most[g], count[g]);
        }
      }
    }
    return classify(most, columns, zeros, weight.elements());
  }

  private static SparsityPattern classify(int[] most, long columns, long zeros, long elements) {
    boolean semiStructured = columns % 4 == 0 && most[1] <= 2;
    int best = -1;
    for (int g = 0; g < GROUPS.length && elements > 0; g++) {
      boolean full = elements - zeros >= 0.95 * elements * most[g] / GROUPS[g];
      if (columns % GROUPS[g] == 0
          && most[g] < GROUPS[g]
          && (GROUPS[g] <= 4 || full)
          && (best < 0 || most[g] * GROUPS[best] < most[best] * GROUPS[g])) {
        best = g;
      }
    }
    if (best >= 0) {
      return new SparsityPattern(
          Kind.N_OF_M, most[best], GROUPS[best], zeros, elements, semiStructured);
    }
    Kind kind = zeros * 100 < elements || elements == 0 ? Kind.DENSE : Kind.UNSTRUCTURED;
    return new SparsityPattern(kind, 0, 0, zeros, elements, semiStructured);
  }

  /** The share of zeros, 0 to 1. */
  public double sparsity() {
    return elements == 0 ? 0 : (double) zeros / elements;
  }

  /** {@code dense}, {@code 2:4}, {@code unstructured, 81.3% zeros}. */
  @Override
  public String toString() {
    return switch (kind) {
      case DENSE -> "dense";
      case N_OF_M -> kept + ":" + group;
      case UNSTRUCTURED ->
          String.format(Locale.ROOT, "unstructured, %.1f%% zeros", 100 * sparsity());
    };
  }
}
