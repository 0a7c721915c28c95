package dev.halve.core.sparse;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class SparseSemiStructuredTensorTest {
  private final Arena arena = Arena.ofConfined();

  @AfterEach
  void close() {
    arena.close();
  }

  @ParameterizedTest
  @EnumSource(names = {"F32", "F16", "BF16"})
  void everyPatternOfZerosComesBackBitForBit(DType dtype) {
    for (int first = 0; first < 16; first++) {
      for (int second = 0; second < 16; second++) {
        if (Integer.bitCount(first) > 2 || Integer.bitCount(second) > 2) {
          continue;
        }
        Tensor dense = Tensor.allocate(arena, dtype, 1, 8);
        int flags = first | second << 4;
        for (int i = 0; i < 8; i++) {
          dense.setFloat(i, (flags >> i & 1) * (i - 3.5f));
          // A zero keeps its sign only as a positive zero here; -0.0 has a test of its own.
          if ((flags >> i & 1) == 0) {
            dense.setFloat(i, 0.0f);
          }
        }
        assertRoundTrip(dense);
      }
    }
  }

  @ParameterizedTest
  @ValueSource(longs = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11})
  void everyShapeComesBackBitForBitWhateverTheBits(long groups) {
    SplittableRandom random = new SplittableRandom(groups);
    for (DType dtype : List.of(DType.F32, DType.F16, DType.BF16)) {
      for (long rows : new long[] {0, 1, 2, 7, 64}) {
        Tensor dense = Tensor.allocate(arena, dtype, rows, 4 * groups);
        for (long group = 0; group < rows * groups; group++) {
          setRandomBits(dense, 4 * group + random.nextInt(4), random);
          setRandomBits(dense, 4 * group + random.nextInt(4), random);
        }
        SparseSemiStructuredTensor sparse = assertRoundTrip(dense);
        assertThat(sparse.bytes())
            .isEqualTo(rows * (2 * groups * dtype.bytes() + (groups + 1) / 2));
        assertThat(sparse.denseBytes()).isEqualTo(dense.bytes());
      }
    }
  }

  /** Any bits but a NaN's: zeros of both signs, subnormals and infinities among them. */
  private static void setRandomBits(Tensor tensor, long index, SplittableRandom random) {
    do {
      int bits =
          switch (random.nextInt(8)) {
            case 0 -> 0x8000_0000;
            case 1 -> random.nextInt() & 0x8007_FFFF;
            case 2 -> tensor.dtype() == DType.F16 ? 0x7C00_7C00 : 0x7F80_7F80 & ~0x7F;
            default -> random.nextInt();
          };
      if (tensor.dtype() == DType.F32) {
        tensor.segment().setAtIndex(ValueLayout.JAVA_INT, index, bits);
      } else {
        tensor.segment().setAtIndex(ValueLayout.JAVA_SHORT, index, (short) (bits >>> 16));
      }
    } while (Float.isNaN(tensor.getFloat(index)));
  }

  @Test
  void theFormatIsTheOneWrittenDown() {
    Tensor dense =
        Tensor.of(
            arena,
            new float[] {
              1, 2, 0, 0, /**/ 3, 0, 4, 0, /**/ 0, 5, 0, 6, //
              0, 0, 7, 8, /**/ 0, 9, 10, 0, /**/ 11, 0, 0, 12
            },
            2,
            12);
    SparseSemiStructuredTensor sparse = SparseSemiStructuredTensor.compress(arena, dense);
    assertThat(sparse.values().toFloatArray())
        .containsExactly(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12);
    assertThat(sparse.metadata().segment().toArray(ValueLayout.JAVA_BYTE))
        .containsExactly(0b1000_0100, 0b1101, (byte) 0b1001_1110, 0b1100);
  }

  @Test
  void groupsWithFewerNonzerosKeepTheZerosThatPyTorchKeeps() {
    Tensor dense =
        Tensor.of(
            arena,
            new float[] {
              0, 0, 0, 0, /**/ 1, 0, 0, 0, /**/ 0, 1, 0, 0, /**/ 0, 0, 1, 0, /**/ 0, 0, 0, 1, //
              0, 0, 0, 0
            },
            1,
            24);
    assertThat(
            SparseSemiStructuredTensor.compress(arena, dense)
                .metadata()
                .segment()
                .toArray(ValueLayout.JAVA_BYTE))
        .containsExactly((byte) 0b1000_1110, (byte) 0b1110_1001, (byte) 0b1110_1110);
  }

  @Test
  void negativeZeroIsZeroAndKeptWhereItFits() {
    Tensor fits = Tensor.of(arena, new float[] {-0.0f, 0, 3, 0}, 1, 4);
    assertRoundTrip(fits);
    Tensor masked = Tensor.of(arena, new float[] {-0.0f, 2, 3, -0.0f}, 1, 4);
    float[] back =
        SparseSemiStructuredTensor.compress(arena, masked).decompress(arena).toFloatArray();
    assertThat(back).containsExactly(new float[] {0.0f, 2, 3, 0.0f});
  }

  @ParameterizedTest
  @EnumSource(names = {"F32", "F16", "BF16"})
  void everyPatternOfThreeOrFourNonzerosIsRefusedWithItsPlace(DType dtype) {
    for (int flags = 0; flags < 16; flags++) {
      if (Integer.bitCount(flags) <= 2) {
        continue;
      }
      Tensor dense = Tensor.allocate(arena, dtype, 3, 12);
      for (int i = 0; i < 4; i++) {
        dense.setFloat(2 * 12 + 4 + i, flags >> i & 1);
      }
      assertThatThrownBy(() -> SparseSemiStructuredTensor.compress(arena, dense))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("row 2, columns 4 to 7 hold " + Integer.bitCount(flags));
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F32", "F16", "BF16"})
  void notANumberIsRefusedWithItsPlace(DType dtype) {
    Tensor dense = Tensor.allocate(arena, dtype, 3, 8);
    dense.setFloat(13, Float.NaN);
    assertThatThrownBy(() -> SparseSemiStructuredTensor.compress(arena, dense))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("NaN at [1, 5]");
  }

  @Test
  void shapesAndTypesThatCannotBeAreRefused() {
    for (long[] extents : List.of(new long[] {4}, new long[] {2, 6}, new long[] {1, 2, 4})) {
      assertThatThrownBy(() ->
              SparseSemiStructuredTensor.compress(
                  arena, Tensor.allocate(arena, DType.F32, extents)))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining(Shape.of(extents).toString());
    }
    assertThatThrownBy(() ->
            SparseSemiStructuredTensor.compress(arena, Tensor.allocate(arena, DType.F64, 2, 4)))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("F64");
  }

  @Test
  void partsThatDoNotFitAreRefused() {
    Tensor values = Tensor.allocate(arena, DType.F32, 2, 6);
    Tensor metadata = Tensor.allocate(arena, DType.U8, 2, 2);
    Shape shape = Shape.of(2, 12);
    List<Runnable> lies = new ArrayList<>();
    lies.add(() -> new SparseSemiStructuredTensor(Shape.of(2, 16), values, metadata));
    lies.add(() -> new SparseSemiStructuredTensor(Shape.of(3, 12), values, metadata));
    lies.add(() -> new SparseSemiStructuredTensor(shape, values.reshape(12), metadata));
    lies.add(() -> new SparseSemiStructuredTensor(shape, values, metadata.reshape(1, 4)));
    lies.add(() ->
        new SparseSemiStructuredTensor(shape, values, Tensor.allocate(arena, DType.I8, 2, 2)));
    lies.add(() ->
        new SparseSemiStructuredTensor(shape, Tensor.allocate(arena, DType.I32, 2, 6), metadata));
    for (Runnable lie : lies) {
      assertThatThrownBy(lie::run).isInstanceOf(HalveException.class).hasMessageContaining("2:4");
    }
  }

  @Test
  void everyNibbleOfMetadataIsAcceptedOrRefusedByItsOrder() {
    Tensor values = Tensor.allocate(arena, DType.F32, 1, 6);
    for (int nibble = 0; nibble < 16; nibble++) {
      for (int group = 0; group < 3; group++) {
        Tensor metadata = Tensor.allocate(arena, DType.U8, 1, 2);
        int word = 0b1110_1110_1110 & ~(0xF << 4 * group) | nibble << 4 * group;
        metadata.segment().set(ValueLayout.JAVA_BYTE, 0, (byte) word);
        metadata.segment().set(ValueLayout.JAVA_BYTE, 1, (byte) (word >> 8));
        var sparse = new SparseSemiStructuredTensor(Shape.of(1, 12), values, metadata);
        if (List.of(4, 8, 9, 12, 13, 14).contains(nibble)) {
          sparse.validate();
        } else {
          String place = "row 0, group " + group;
          assertThatThrownBy(sparse::validate)
              .isInstanceOf(HalveException.class)
              .hasMessageContaining(place);
          assertThatThrownBy(() -> sparse.decompress(arena)).isInstanceOf(HalveException.class);
        }
      }
    }
  }

  @Test
  void bitsPastTheLastGroupAreRefused() {
    Tensor metadata = Tensor.allocate(arena, DType.U8, 1, 1);
    metadata.segment().set(ValueLayout.JAVA_BYTE, 0, (byte) 0b0001_1110);
    var sparse =
        new SparseSemiStructuredTensor(
            Shape.of(1, 4), Tensor.allocate(arena, DType.F32, 1, 2), metadata);
    assertThatThrownBy(sparse::validate)
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("past the last group of row 0");
  }

  private SparseSemiStructuredTensor assertRoundTrip(Tensor dense) {
    SparseSemiStructuredTensor sparse = SparseSemiStructuredTensor.compress(arena, dense);
    sparse.validate();
    Tensor back = sparse.decompress(arena);
    assertThat(back.toString()).isEqualTo(dense.toString());
    assertThat(back.segment().mismatch(dense.segment())).isEqualTo(-1);
    return sparse;
  }
}
