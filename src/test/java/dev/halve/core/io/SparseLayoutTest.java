package dev.halve.core.io;

import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SparseLayoutTest {
  @TempDir Path folder;

  @Test
  void quantizedValuesAreRefusedAsTheyAreFound() {
    Path file = folder.resolve("model.safetensors");
    try (Arena arena = Arena.ofConfined()) {
      for (SparseLayout layout : SparseLayout.values()) {
        List<String> names = layout.tensors("layer");
        SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
        names.forEach(name -> tensors.put(name, Tensor.allocate(arena, DType.I8, 32, 32)));
        SafetensorsWriter.write(file, tensors, Map.of());
        try (Safetensors stored = Safetensors.open(file)) {
          assertThatThrownBy(() -> layout.read(arena, stored, "layer"))
              .isInstanceOf(HalveException.class)
              .hasMessageContaining("model.safetensors: layer.weight")
              .hasMessageContaining(names.getFirst() + " (I8 [32, 32])");
        }
      }
    }
  }
}
