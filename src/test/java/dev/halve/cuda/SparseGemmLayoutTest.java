package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SparseGemmLayoutTest {
  @ParameterizedTest
  @CsvSource({"1,4", "64,64", "65,68", "100,136", "192,320", "7,1028"})
  void unpacksToTheWeight(int out, int in) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor dense = randomWeight(arena, out, in);
      SparseGemmLayout layout = SparseGemmLayout.of(dense.shape());
      MemorySegment packed = arena.allocate(layout.bytes(), 64);
      packed.fill((byte) 0xFF);
      layout.pack(SparseSemiStructuredTensor.compress(arena, dense), packed);

      short[][] found = unpack(layout, packed);
      assertThat(found.length).isGreaterThanOrEqualTo(out);
      for (int row = 0; row < found.length; row++) {
        for (int column = 0; column < found[row].length; column++) {
          boolean inside = row < out && column < in;
          long at = (long) row * in + column;
          assertThat(found[row][column])
              .as("row %d, column %d", row, column)
              .isEqualTo(inside ? dense.segment().getAtIndex(ValueLayout.JAVA_SHORT, at) : 0);
        }
      }
    }
  }

  @Test
  void takesNineSixteenthsOfTheDenseWeight() {
    SparseGemmLayout layout = SparseGemmLayout.of(Shape.of(768, 768));
    assertThat(layout.bytes() / (768.0 * 768 * 2)).isBetween(9 / 16.0, 0.63);
    assertThat(SparseGemmLayout.of(Shape.of(3072, 768)).bytes() / (3072 * 768 * 2.0))
        .isLessThan(0.58);
  }

  @Test
  void namesWhatItCannotPack() {
    assertThatThrownBy(() -> SparseGemmLayout.of(Shape.of(8, 6)))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("[8, 6]")
        .hasMessageContaining("multiple of 4");
    try (Arena arena = Arena.ofConfined()) {
      SparseSemiStructuredTensor floats =
          SparseSemiStructuredTensor.compress(arena, Tensor.allocate(arena, DType.F32, 64, 64));
      SparseGemmLayout layout = SparseGemmLayout.of(floats.shape());
      MemorySegment target = arena.allocate(layout.bytes(), 64);
      assertThatThrownBy(() -> layout.pack(floats, target))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("F16 or BF16")
          .hasMessageContaining("F32");
    }
  }

  /** Two nonzeros in most groups of four, one or none in some. */
  private static Tensor randomWeight(Arena arena, int out, int in) {
    Random random = new Random(31L * out + in);
    Tensor dense = Tensor.allocate(arena, DType.F16, out, in);
    for (long group = 0; group < (long) out * in / 4; group++) {
      for (int kept = random.nextInt(8) == 0 ? 1 : 0; kept < 2; kept++) {
        dense.setFloat(group * 4 + random.nextInt(4), 1 + random.nextFloat());
      }
    }
    return dense;
  }

  /** The dense weight, read the way the sparse instructions read the operand. */
  private static short[][] unpack(SparseGemmLayout layout, MemorySegment packed) {
    short[][] dense = new short[layout.outBlocks() * 64][layout.kTiles() * 64];
    for (int kTile = 0; kTile < layout.kTiles(); kTile++) {
      for (int block = 0; block < layout.outBlocks(); block++) {
        long base = ((long) kTile * layout.outBlocks() + block) * SparseGemmLayout.BLOCK_BYTES;
        for (int thread = 0; thread < 128; thread++) {
          int word = packed.get(ValueLayout.JAVA_INT, base + 4096 + thread * 4L);
          int warp = thread / 32;
          int g = thread % 32 / 4;
          int c = thread % 4;
          for (int nibble = 0; nibble < 8; nibble++) {
            int row = 16 * warp + g + nibble / 4 * 8;
            int group = c * 4 + nibble % 4;
            int pattern = word >>> nibble * 4;
            int first = pattern & 3;
            int second = pattern >> 2 & 3;
            assertThat(first).isLessThan(second);
            long values = base + row * 64L + ((group / 4) ^ (row / 2 % 4)) * 16L + group % 4 * 4L;
            short[] denseRow = dense[block * 64 + row];
            denseRow[kTile * 64 + group * 4 + first] = packed.get(ValueLayout.JAVA_SHORT, values);
            denseRow[kTile * 64 + group * 4 + second] =
                packed.get(ValueLayout.JAVA_SHORT, values + 2);
          }
        }
      }
    }
    return dense;
  }
}
