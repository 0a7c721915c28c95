package dev.halve.core.sparsify;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.stream.IntStream;

/**
 * Magnitude pruning to masks that are 2:4 along both axes, so that the transposed weight of a
 * backward pass is 2:4 too: of every 4 by 4 tile that choice of two a row and two a column which
 * keeps the most magnitude, found by trying all 90. Hubara et al., "Accelerated Sparse Neural
 * Training: A Provable and Efficient Method to Find N:M Transposable Masks", arXiv 2102.08124.
 *
 * <p>Of choices that keep as much, the one that keeps more in the first rows, there to the left.
 */
public final class TransposableSparsifier extends Sparsifier {
  /** Masks of a tile, bit {@code 4 · row + column}, first the one that is furthest up and left. */
  private static final int[] TILES =
      IntStream.range(0, 1 << 16)
          .filter(TransposableSparsifier::isTwoByTwo)
          .boxed()
          .sorted((a, b) -> Integer.compare(Integer.reverse(b) >>> 16, Integer.reverse(a) >>> 16))
          .mapToInt(Integer::intValue)
          .toArray();

  private static boolean isTwoByTwo(int tile) {
    for (int i = 0; i < 4; i++) {
      if (Integer.bitCount(tile & 0xF << 4 * i) != 2 || Integer.bitCount(tile & 0x1111 << i) != 2) {
        return false;
      }
    }
    return true;
  }

  @Override
  protected boolean fits(String layer, Shape weight) {
    return isTiled(weight);
  }

  private static boolean isTiled(Shape weight) {
    return weight.rank() == 2 && weight.extent(0) % 4 == 0 && weight.extent(1) % 4 == 0;
  }

  @Override
  protected void update(String layer, Tensor weight, Tensor mask) {
    fill(weight, mask);
  }

  /**
   * The mask of one weight, U8 {@code [out, in]}, owned by the arena.
   *
   * @param weight a host tensor {@code [out, in]} of a floating type
   * @throws HalveException if {@code out} or {@code in} is no multiple of 4, or an element is not
   *     finite
   */
  public static Tensor mask(Arena arena, Tensor weight) {
    if (!isTiled(weight.shape())) {
      throw new HalveException("the weight " + weight + " is not made of 4 by 4 tiles");
    }
    weight.requireFinite("the weight");
    Tensor mask = Tensor.allocate(arena, DType.U8, weight.shape().extents());
    fill(weight, mask);
    return mask;
  }

  private static void fill(Tensor weight, Tensor mask) {
    long in = weight.extent(1);
    // What each choice of columns keeps of each row of a tile.
    double[] rowSums = new double[4 * 16];
    for (long row = 0; row < weight.extent(0); row += 4) {
      for (long column = 0; column < in; column += 4) {
        long corner = row * in + column;
        for (int r = 0; r < 4; r++) {
          for (int choice = 0; choice < 16; choice++) {
            double sum = 0;
            for (int c = 0; c < 4; c++) {
              sum += (choice >> c & 1) == 0 ? 0 : Math.abs(weight.getFloat(corner + r * in + c));
            }
            rowSums[r * 16 + choice] = sum;
          }
        }
        int best = best(rowSums);
        for (int i = 0; i < 16; i++) {
          mask.segment()
              .set(ValueLayout.JAVA_BYTE, corner + i / 4 * in + i % 4, (byte) (best >> i & 1));
        }
      }
    }
  }

  private static int best(double[] rowSums) {
    int best = 0;
    double most = Double.NEGATIVE_INFINITY;
    for (int tile : TILES) {
      double sum = 0;
      for (int r = 0; r < 4; r++) {
        sum += rowSums[r * 16 + (tile >> 4 * r & 0xF)];
      }
      if (sum > most) {
        most = sum;
        best = tile;
      }
    }
    return best;
  }
}
