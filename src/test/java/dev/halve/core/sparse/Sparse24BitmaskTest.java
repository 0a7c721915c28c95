package dev.halve.core.sparse;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.TorchReference;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import tools.jackson.databind.JsonNode;

class Sparse24BitmaskTest {
  private final Arena arena = Arena.ofConfined();

  @AfterEach
  void close() {
    arena.close();
  }

  @Test
  void theBitmaskIsThatOfNumPyAndBackIsBitForBit() throws IOException {
    for (JsonNode reference : TorchReference.read().get("bitmasks")) {
      int rows = reference.get("rows").intValue();
      int columns = reference.get("columns").intValue();
      Tensor dense =
          TorchReference.weight(arena, DType.F32, rows, columns, reference.get("seed").intValue());
      for (long group = 0; group < dense.elements(); group += 4) {
        zeroTwoSmallest(dense, group);
      }
      SparseSemiStructuredTensor weight = SparseSemiStructuredTensor.compress(arena, dense);
      Sparse24Bitmask bitmask = Sparse24Bitmask.of(arena, weight);
      JsonNode expected = reference.get("bitmask");
      assertThat(bitmask.bitmask().elements()).isEqualTo(expected.size());
      for (int i = 0; i < expected.size(); i++) {
        assertThat(bitmask.bitmask().segment().get(ValueLayout.JAVA_BYTE, i) & 0xFF)
            .isEqualTo(expected.get(i).intValue());
      }
      assertThat(bitmask.shape().segment().toArray(ValueLayout.JAVA_LONG))
          .containsExactly(rows, columns);
      SparseSemiStructuredTensor back = bitmask.toSparseSemiStructured(arena);
      assertThat(back.metadata().segment().mismatch(weight.metadata().segment())).isEqualTo(-1);
      assertThat(back.decompress(arena).segment().mismatch(dense.segment())).isEqualTo(-1);
    }
  }

  private static void zeroTwoSmallest(Tensor dense, long group) {
    for (int i = 0; i < 2; i++) {
      long smallest = -1;
      for (long j = group; j < group + 4; j++) {
        float value = Math.abs(dense.getFloat(j));
        if (value > 0 && (smallest < 0 || value < Math.abs(dense.getFloat(smallest)))) {
          smallest = j;
        }
      }
      dense.setFloat(smallest, 0);
    }
  }

  @Test
  void bitmasksThatLieAreRefused() {
    for (int bits : new int[] {0, 1, 7, 15}) {
      assertThatThrownBy(() -> bitmask(12, 3, 5, bits, 0).toSparseSemiStructured(arena))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining(
              "keeps " + Integer.bitCount(bits) + " elements in row 0, columns 8 to 11");
    }
    assertThatThrownBy(() -> bitmask(12, 3, 5, 3, 1).toSparseSemiStructured(arena))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("row 0, columns 12 to 15");
    assertThatThrownBy(() -> bitmask(16, 3, 5, 3, 3))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("weight [1, 16]");
  }

  private Sparse24Bitmask bitmask(long in, int... nibbles) {
    Tensor shape = Tensor.allocate(arena, DType.I64, 2, 1);
    shape.segment().setAtIndex(ValueLayout.JAVA_LONG, 0, 1);
    shape.segment().setAtIndex(ValueLayout.JAVA_LONG, 1, in);
    Tensor bits = Tensor.allocate(arena, DType.U8, 1, 2);
    for (int i = 0; i < 2; i++) {
      bits.segment()
          .set(ValueLayout.JAVA_BYTE, i, (byte) (nibbles[2 * i] | nibbles[2 * i + 1] << 4));
    }
    return new Sparse24Bitmask(shape, Tensor.allocate(arena, DType.F16, 1, 6), bits);
  }
}
