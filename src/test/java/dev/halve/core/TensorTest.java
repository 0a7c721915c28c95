package dev.halve.core;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;
import java.util.List;
import java.util.Random;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;

class TensorTest {
  private static final int ELEMENTS = 9001;

  private static final float[] EDGES = {
    0,
    -0.0f,
    1,
    -1,
    Float.NaN,
    Float.POSITIVE_INFINITY,
    Float.NEGATIVE_INFINITY,
    Float.MIN_VALUE,
    Float.MAX_VALUE,
    65504,
    65520,
    6e-8f,
    1 + 0x1p-8f,
    1 + 0x1p-11f,
    1 + 0x1.8p-8f
  };

  private static float value(Random random, int index) {
    return index < EDGES.length ? EDGES[index] : (float) random.nextGaussian();
  }

  @ParameterizedTest
  @CsvSource({
    "F32, F32",
    "F32, F16",
    "F32, BF16",
    "F32, F64",
    "F16, F32",
    "BF16, F32",
    "F64, F32",
    "F16, BF16",
    "BF16, F16",
    "F64, F16",
    "F64, BF16",
    "F16, F64"
  })
  void aCopyConvertsAsSingleElementsDo(DType from, DType to) {
    Random random = new Random(3);
    try (Arena arena = Arena.ofConfined()) {
      Tensor source = Tensor.allocate(arena, from, ELEMENTS);
      Tensor copy = Tensor.allocate(arena, to, ELEMENTS);
      Tensor expected = Tensor.allocate(arena, to, ELEMENTS);
      for (int i = 0; i < ELEMENTS; i++) {
        source.setFloat(i, value(random, i));
        copy.setFloat(i, Float.NaN);
        expected.setFloat(i, source.getFloat(i));
      }
      copy.copyFrom(source);
      assertThat(copy.segment().mismatch(expected.segment())).isEqualTo(-1);
      float[] values = source.toFloatArray();
      for (int i = 0; i < ELEMENTS; i++) {
        assertThat(values[i]).isEqualTo((Float) source.getFloat(i));
      }
      assertThatThrownBy(() -> copy.requireNoNaN("copy")).hasMessageContaining("is NaN at [4]");
    }
  }

  @Test
  void whatIsNotFiniteIsFoundWhereItIs() {
    Tensor weight = Tensor.allocate(Arena.ofAuto(), DType.BF16, 2, 3, 4);
    assertThat(weight.requireFinite("w")).isSameAs(weight);
    assertThat(weight.requireNoNaN("w")).isSameAs(weight);
    weight.setFloat(17, Float.NaN);
    assertThatThrownBy(() -> weight.requireFinite("layer.weight"))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("layer.weight (BF16 [2, 3, 4]) is NaN at [1, 1, 1]");
    weight.setFloat(6, Float.NEGATIVE_INFINITY);
    assertThatThrownBy(() -> weight.requireFinite("layer.weight"))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("layer.weight (BF16 [2, 3, 4]) is infinite at [0, 1, 2]");
  }

  @Test
  void aDoubleThatIsInfiniteInF32IsNotFinite() {
    Tensor weight = Tensor.allocate(Arena.ofAuto(), DType.F64, 2, 3);
    // The last double that rounds to a float, and the next one.
    double last = Math.nextDown(Float.MAX_VALUE + Math.ulp(Float.MAX_VALUE) / 2.0);
    weight.segment().setAtIndex(ValueLayout.JAVA_DOUBLE, 2, -last);
    assertThat(weight.requireFinite("w")).isSameAs(weight);
    weight.segment().setAtIndex(ValueLayout.JAVA_DOUBLE, 4, -Math.nextUp(last));
    assertThatThrownBy(() -> weight.requireFinite("w"))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("w (F64 [2, 3]) is -3.4028235677973366E38, which F32 cannot hold")
        .hasMessageContaining("at [1, 1]");
    assertThat(weight.requireNoNaN("w")).isSameAs(weight);
  }

  @ParameterizedTest
  @EnumSource(names = {"I8", "U8", "I64", "BOOL"})
  void whatHoldsNoFloatsIsNotFinite(DType dtype) {
    Tensor ids = Tensor.allocate(Arena.ofAuto(), dtype, 2, 3);
    for (ThrowingCallable check :
        List.<ThrowingCallable>of(
            () -> ids.requireFinite("layer.weight"), () -> ids.requireNoNaN("layer.weight"))) {
      assertThatThrownBy(check)
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("layer.weight (" + dtype + " [2, 3]) holds no floating-point");
    }
  }

  @ParameterizedTest
  @CsvSource({"F32, 1, 1", "F16, 33, 5", "BF16, 7, 64", "F64, 32, 70", "U8, 65, 31"})
  void aTransposedMatrixHasItsBytesInTheOtherOrder(DType dtype, int rows, int columns) {
    Tensor matrix = Tensor.allocate(Arena.ofAuto(), dtype, rows, columns);
    byte[] bytes = new byte[(int) matrix.bytes()];
    new Random(5).nextBytes(bytes);
    matrix.segment().copyFrom(MemorySegment.ofArray(bytes));
    Tensor transposed = matrix.transposed(Arena.ofAuto());
    assertThat(transposed.shape()).isEqualTo(Shape.of(columns, rows));
    byte[] found = transposed.segment().toArray(ValueLayout.JAVA_BYTE);
    int width = dtype.bytes();
    for (int row = 0; row < rows; row++) {
      for (int column = 0; column < columns; column++) {
        int from = (row * columns + column) * width;
        int to = (column * rows + row) * width;
        assertThat(Arrays.equals(bytes, from, from + width, found, to, to + width)).isTrue();
      }
    }
  }
}
