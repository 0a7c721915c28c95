package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.lang.foreign.Arena;
import java.util.Random;
import java.util.function.IntBinaryOperator;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class PairedSparseWeightTest {
  /** The six pairs of positions that a group of four may keep. */
  private static final int[] PATTERNS = {0b0011, 0b0101, 0b1001, 0b0110, 0b1010, 0b1100};

  private final Arena arena = Arena.ofShared();
  private final ArenaPool pool = new ArenaPool();
  private final Random random = new Random(5);

  @AfterEach
  void close() {
    pool.close();
    arena.close();
  }

  @ParameterizedTest
  @CsvSource({"1, 4", "7, 8", "8, 60", "9, 64", "63, 68", "64, 128", "65, 132", "200, 388"})
  void holdsEveryValueOnce(int rows, int columns) {
    holds(rows, columns, (row, group) -> random.nextInt(6));
    holds(rows, columns, (row, group) -> 0);
    holds(rows, columns, (row, group) -> row % 2 == 0 ? 0 : 5);
    holds(rows, columns, (row, group) -> row < rows / 3 ? 0 : 5);
    holds(rows, columns, (row, group) -> row % 5 == 0 ? group % 6 : row % 6);
  }

  private void holds(int rows, int columns, IntBinaryOperator pattern) {
    Tensor dense = weight(rows, columns, pattern);
    SparseSemiStructuredTensor compressed = SparseSemiStructuredTensor.compress(arena, dense);
    PairedSparseWeight packed = PairedSparseWeight.pack(pool, compressed);
    float[] found = new float[rows * columns];
    for (int group = 0; group < packed.groups(); group++) {
      for (int chunk = 0; chunk < packed.chunks(); chunk++) {
        add(packed, group, chunk, found, rows, columns);
      }
    }
    assertThat(found).isEqualTo(dense.toFloatArray());
    SparseSemiStructuredTensor unpacked = packed.unpack(arena);
    assertThat(unpacked.values().segment().mismatch(compressed.values().segment())).isEqualTo(-1);
    assertThat(unpacked.metadata().segment().mismatch(compressed.metadata().segment()))
        .isEqualTo(-1);
  }

  /** Adds up what lies at each row and column; a second value at one place would change it. */
  private static void add(
      PairedSparseWeight packed, int group, int chunk, float[] sums, int rows, int columns) {
    long at = packed.block(group, chunk);
    for (int block = 0; block < packed.blocks(group); block++) {
      long head = at;
      int passes = Memory.getInt(head + 16);
      at += 24;
      for (int pass = 0; pass < passes; pass++) {
        for (int pair = 0; pair < 4; pair++) {
          int places = Memory.getInt(at + 64 + 3L * pair);
          int[] columnOf = {places & 0xFF, places & 0xFF, places >> 8 & 0xFF, places >> 16 & 0xFF};
          for (int value = 0; value < 4; value++) {
            float term = Memory.getFloat(at + 16L * pair + 4L * value);
            int row = Memory.getInt(head + 4L * pair) >>> 16 * (value % 2) & 0xFFFF;
            int place = (group * 64 + row) * columns + chunk * 64 + columnOf[value];
            if (group * 64 + row < rows) {
              sums[place] += term;
            } else {
              assertThat(term).isZero();
            }
          }
        }
        at += 76;
      }
    }
  }

  @Test
  void randomRowsTakeAPassForEveryFourColumns() {
    assertThat(bytesOfDense(384, 384, (row, group) -> random.nextInt(6))).isBetween(0.60, 0.61);
  }

  @Test
  void rowsOfOnePatternTakeNoMore() {
    assertThat(bytesOfDense(384, 384, (row, group) -> 5)).isBetween(0.60, 0.61);
    assertThat(bytesOfDense(384, 384, (row, group) -> row % 2 * 5)).isBetween(0.60, 0.61);
  }

  /** An odd number of rows of either pattern: one pair has no column in common. */
  @Test
  void rowsWithNothingInCommonTakeAThirdMore() {
    IntBinaryOperator pattern = (row, group) -> row % 64 < 31 ? 0 : 5;
    assertThat(bytesOfDense(384, 384, pattern)).isBetween(0.62, 0.64);
  }

  private double bytesOfDense(int rows, int columns, IntBinaryOperator pattern) {
    return pack(weight(rows, columns, pattern)).bytes() / (4.0 * rows * columns);
  }

  private PairedSparseWeight pack(Tensor dense) {
    return PairedSparseWeight.pack(pool, SparseSemiStructuredTensor.compress(arena, dense));
  }

  private Tensor weight(int rows, int columns, IntBinaryOperator pattern) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, rows, columns);
    for (int row = 0; row < rows; row++) {
      for (int group = 0; group < columns / 4; group++) {
        int kept = PATTERNS[pattern.applyAsInt(row, group)];
        for (int i = 0; i < 4; i++) {
          if ((kept >> i & 1) == 1) {
            // Now and then a zero, which is kept all the same.
            float value = random.nextInt(20) == 0 ? 0 : random.nextFloat() + 1;
            tensor.setFloat((long) row * columns + 4L * group + i, value);
          }
        }
      }
    }
    return tensor;
  }
}
