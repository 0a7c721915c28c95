package dev.halve.core.sparse;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.TorchReference;
import dev.halve.core.sparsify.WeightNormSparsifier;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.stream.StreamSupport;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import tools.jackson.databind.JsonNode;

class CutlassLayoutTest {
  private final Arena arena = Arena.ofConfined();

  @AfterEach
  void close() {
    arena.close();
  }

  @Test
  void valuesAndMetadataAreThoseThatPyTorchMakes() throws IOException {
    for (JsonNode reference : TorchReference.read().get("cutlass")) {
      int rows = reference.get("rows").intValue();
      int columns = reference.get("columns").intValue();
      Tensor dense =
          TorchReference.smallWeight(
              arena, DType.F16, rows, columns, reference.get("seed").intValue());
      Tensor mask =
          WeightNormSparsifier.mask(arena, dense, WeightNormSparsifier.Config.SEMI_STRUCTURED);
      for (int row = 0; row < rows; row++) {
        for (int column = 0; column < columns; column++) {
          long i = (long) row * columns + column;
          boolean kept = mask.segment().get(ValueLayout.JAVA_BYTE, i) == 1;
          if (!kept || (row % 5 == 0 && column % 3 == 0)) {
            dense.setFloat(i, 0);
          }
        }
      }
      SparseSemiStructuredTensor weight = SparseSemiStructuredTensor.compress(arena, dense);
      CutlassLayout layout = CutlassLayout.of(arena, weight);
      assertThat(shorts(layout.values())).containsExactly(shorts(reference.get("values")));
      assertThat(shorts(layout.metadata())).containsExactly(shorts(reference.get("meta")));

      SparseSemiStructuredTensor back = layout.toSparseSemiStructured(arena);
      assertThat(back.metadata().segment().mismatch(weight.metadata().segment())).isEqualTo(-1);
      assertThat(back.decompress(arena).segment().mismatch(dense.segment())).isEqualTo(-1);
    }
  }

  @Test
  void weightsThatPyTorchsFormatDoesNotHaveAreRefused() {
    assertRefused(DType.F32, 32, 64, "F32; expected F16 or BF16");
    assertRefused(DType.F16, 16, 64, "[16, 32]");
    assertRefused(DType.BF16, 32, 32, "[32, 16]");
    Tensor values = Tensor.allocate(arena, DType.F16, 32, 32);
    assertThatThrownBy(() -> new CutlassLayout(values, Tensor.allocate(arena, DType.I16, 32, 8)))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("I16 [32, 8]; expected I16 [32, 4]");
    // Zeroed metadata keeps position 0 twice.
    var zeroed = new CutlassLayout(values, Tensor.allocate(arena, DType.I16, 32, 4));
    assertThatThrownBy(() -> zeroed.toSparseSemiStructured(arena))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("positions 0 and 0 in row 0, group 0");
  }

  private void assertRefused(DType dtype, long out, long in, String message) {
    var weight = SparseSemiStructuredTensor.compress(arena, Tensor.allocate(arena, dtype, out, in));
    assertThatThrownBy(() -> CutlassLayout.of(arena, weight))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining(message);
  }

  private static Short[] shorts(Tensor tensor) {
    short[] values = tensor.segment().toArray(ValueLayout.JAVA_SHORT);
    Short[] boxed = new Short[values.length];
    for (int i = 0; i < boxed.length; i++) {
      boxed[i] = values[i];
    }
    return boxed;
  }

  private static Short[] shorts(JsonNode values) {
    return StreamSupport.stream(values.spliterator(), false)
        .map(value -> (short) value.intValue())
        .toArray(Short[]::new);
  }
}
