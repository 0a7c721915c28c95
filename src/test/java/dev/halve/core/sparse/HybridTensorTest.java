package dev.halve.core.sparse;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.io.HybridLayout;
import dev.halve.core.io.Safetensors;
import dev.halve.core.io.SafetensorsWriter;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SequencedMap;
import java.util.Set;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

class HybridTensorTest {
  private final Arena arena = Arena.ofConfined();
  private final Random random = new Random(8);

  @TempDir Path folder;

  @AfterEach
  void close() {
    arena.close();
  }

  /** Blocks of 16 rows, of which the named ones are dense. */
  private Tensor weight(DType dtype, int out, int in, Set<Integer> dense) {
    Tensor weight = Tensor.allocate(arena, dtype, out, in);
    for (int row = 0; row < out; row++) {
      for (int i = 0; i < in; i++) {
        boolean kept = dense.contains(row / 16) || i % 4 == row % 3 || i % 4 == 3;
        weight.setFloat((long) row * in + i, kept ? 1 + random.nextFloat() : 0);
      }
    }
    return weight;
  }

  @ParameterizedTest
  @EnumSource(names = {"F32", "F16", "BF16"})
  void rowsOfBothRegionsComeBackBitForBit(DType dtype) {
    Tensor weight = weight(dtype, 90, 12, Set.of(1, 2, 5));
    HybridTensor hybrid = HybridTensor.compress(arena, weight);
    assertThat(hybrid.denseBlocks().segment().toArray(ValueLayout.JAVA_BYTE))
        .containsExactly(0, 1, 1, 0, 0, 1);
    assertThat(hybrid.dense().shape()).isEqualTo(Shape.of(42, 12));
    assertThat(hybrid.sparse().shape()).isEqualTo(Shape.of(48, 12));
    assertThat(hybrid.runs())
        .containsExactly(
            new HybridTensor.Run(false, 0, 16, 0),
            new HybridTensor.Run(true, 16, 32, 0),
            new HybridTensor.Run(false, 48, 32, 16),
            new HybridTensor.Run(true, 80, 10, 32));
    assertThat(hybrid.decompress(arena).segment().mismatch(weight.segment())).isEqualTo(-1);
  }

  @Test
  void weightsOfOneRegionAreRefused() {
    for (Set<Integer> dense : List.of(Set.<Integer>of(), Set.of(0, 1))) {
      Tensor weight = weight(DType.F32, 32, 8, dense);
      assertThat(HybridTensor.fits(weight)).isFalse();
      assertThatThrownBy(() -> HybridTensor.compress(arena, weight))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("F32 [32, 8]");
    }
    assertThat(HybridTensor.fits(weight(DType.F32, 32, 6, Set.of(1)))).isFalse();
  }

  private SequencedMap<String, Tensor> stored() {
    HybridTensor hybrid = HybridTensor.compress(arena, weight(DType.F32, 40, 8, Set.of(1)));
    SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
    for (SafetensorsWriter.Entry entry : HybridLayout.entries("m", hybrid)) {
      tensors.put(entry.name(), entry.load().apply(arena));
    }
    return tensors;
  }

  private HybridTensor read(SequencedMap<String, Tensor> tensors) {
    Path file = folder.resolve("m.safetensors");
    SafetensorsWriter.write(file, tensors, Map.of());
    try (Safetensors weights = Safetensors.open(file)) {
      assertThat(HybridLayout.holds(weights.names(), "m")).isTrue();
      HybridTensor hybrid = HybridLayout.read(weights, "m");
      hybrid.decompress(arena);
      return hybrid;
    }
  }

  @Test
  void aFileGivesBackWhatItWasGiven() {
    Tensor weight = weight(DType.F32, 40, 8, Set.of(0));
    SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
    for (var entry : HybridLayout.entries("m", HybridTensor.compress(arena, weight))) {
      tensors.put(entry.name(), entry.load().apply(arena));
    }
    Path file = folder.resolve("m.safetensors");
    SafetensorsWriter.write(file, tensors, Map.of());
    try (Safetensors weights = Safetensors.open(file)) {
      Tensor back = HybridLayout.read(weights, "m").decompress(arena);
      assertThat(back.segment().mismatch(weight.segment())).isEqualTo(-1);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"dense_rows", "sparse_values", "sparse_metadata"})
  void aMissingPartIsNamed(String part) {
    SequencedMap<String, Tensor> tensors = stored();
    tensors.remove("m.weight." + part);
    assertThatThrownBy(() -> read(tensors))
        .isInstanceOf(HalveException.class)
        .hasMessageContainingAll("m.safetensors", "m.weight." + part);
  }

  @Test
  void partsThatDoNotFitAreRefused() {
    List<Tensor> wrong = new ArrayList<>();
    wrong.add(Tensor.allocate(arena, DType.U8, 3));
    Tensor two = Tensor.allocate(arena, DType.U8, 3);
    two.segment().fill((byte) 2);
    wrong.add(two);
    wrong.add(Tensor.allocate(arena, DType.U8, 4));
    wrong.add(Tensor.allocate(arena, DType.F32, 3));
    for (Tensor blocks : wrong) {
      SequencedMap<String, Tensor> tensors = stored();
      tensors.put("m.weight.dense_blocks", blocks);
      assertThatThrownBy(() -> read(tensors))
          .isInstanceOf(HalveException.class)
          .hasMessageContainingAll("m.safetensors", "m.weight", "dense");
    }
    for (String part : List.of("dense_rows", "sparse_values")) {
      SequencedMap<String, Tensor> tensors = stored();
      tensors.get("m.weight." + part).setFloat(3, Float.NaN);
      assertThatThrownBy(() -> read(tensors))
          .isInstanceOf(HalveException.class)
          .hasMessageContainingAll(part, "NaN");
      tensors.put("m.weight." + part, Tensor.allocate(arena, DType.F32, 5));
      assertThatThrownBy(() -> read(tensors))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("m.weight");
    }
    SequencedMap<String, Tensor> positions = stored();
    positions.get("m.weight.sparse_metadata").segment().fill((byte) 0);
    assertThatThrownBy(() -> read(positions)).isInstanceOf(HalveException.class);
  }
}
