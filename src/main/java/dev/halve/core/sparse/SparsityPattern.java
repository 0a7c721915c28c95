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
    int columns = Math.toIntExact(weight.extent(-1));
    long elements = weight.elements();
    int[] most = new int[GROUPS.length];
    long zeros = elements;
    long rows = columns == 0 ? 0 : elements / columns;
    Tensor matrix = weight.reshape(rows, columns);
    for (long row = 0; row < rows; row++) {
      float[] values = matrix.rows(row, 1).toFloatArray();
      for (int first = 0; first < columns; first += Integer.SIZE) {
        int nonzeros = nonzeros(values, first);
        zeros -= Integer.bitCount(nonzeros);
        countGroups(nonzeros, most);
      }
    }
    return classify(most, columns, zeros, elements);
  }

  /** Bit i: whether the element i places on is not zero; past the last one 0. */
  private static int nonzeros(float[] values, int first) {
    int bits = 0;
    for (int i = 0, n = Math.min(Integer.SIZE, values.length - first); i < n; i++) {
      // No branch: where zeros lie cannot be predicted.
      int magnitude = Float.floatToRawIntBits(values[first + i]) << 1;
      bits |= (magnitude | -magnitude) >>> 31 << i;
    }
    return bits;
  }

  /** Raises the most nonzeros of each group size by those of 32 neighbours. */
  private static void countGroups(int nonzeros, int[] most) {
    for (int g = 0; g < GROUPS.length; g++) {
      int group = -1 >>> (Integer.SIZE - GROUPS[g]);
      for (int at = 0; at < Integer.SIZE; at += GROUPS[g]) {
        most[g] = Math.max(most[g], Integer.bitCount(nonzeros >>> at & group));
      }
    }
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
