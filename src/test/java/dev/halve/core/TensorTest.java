package dev.halve.core;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.foreign.Arena;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

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
      assertThat(copy.firstNaN()).isEqualTo(4);
    }
  }
}
