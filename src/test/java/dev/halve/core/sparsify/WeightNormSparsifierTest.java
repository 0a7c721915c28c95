package dev.halve.core.sparsify;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.TorchReference;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.core.sparsify.WeightNormSparsifier.Config;
import dev.halve.core.sparsify.WeightNormSparsifier.Norm;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Map;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.EnumSource;
import tools.jackson.databind.JsonNode;

class WeightNormSparsifierTest {
  private final Arena arena = Arena.ofConfined();

  @AfterEach
  void close() {
    arena.close();
  }

  @ParameterizedTest
  @EnumSource(names = {"F32", "F16", "BF16"})
  void ofEveryFourTheTwoLargestStay(DType dtype) {
    Tensor weight = random(new SplittableRandom(1), dtype, 64, 96);
    int[] mask = mask(weight, Config.SEMI_STRUCTURED);
    for (int first = 0; first < mask.length; first += 4) {
      float smallestKept = Float.POSITIVE_INFINITY;
      float largestPruned = 0;
      int kept = 0;
      for (int i = first; i < first + 4; i++) {
        float magnitude = Math.abs(weight.getFloat(i));
        kept += mask[i];
        if (mask[i] == 1) {
          smallestKept = Math.min(smallestKept, magnitude);
        } else {
          largestPruned = Math.max(largestPruned, magnitude);
        }
      }
      assertThat(kept).isEqualTo(2);
      assertThat(largestPruned).isLessThanOrEqualTo(smallestKept);
    }
  }

  @Test
  void everyOrderAndEveryTieOfFourIsDecidedFromTheLeft() {
    for (int code = 0; code < 256; code++) {
      float[] values = new float[4];
      for (int i = 0; i < 4; i++) {
        values[i] = (code >> 2 * i & 3) * ((code + i) % 2 == 0 ? 1 : -1);
      }
      Tensor weight = Tensor.of(arena, values, 1, 4);
      assertThat(mask(weight, Config.SEMI_STRUCTURED))
          .as("%s", (Object) values)
          .containsExactly(reference(weight, Config.SEMI_STRUCTURED));
    }
    assertThat(mask(Tensor.of(arena, new float[] {0, -0.0f, 0, 0}, 1, 4), Config.SEMI_STRUCTURED))
        .containsExactly(1, 1, 0, 0);
  }

  @ParameterizedTest
  @CsvSource({
    // level, block rows, block columns, zeros, norm, weight rows, weight columns
    "1.0, 1, 4, 2, L2, 8, 64",
    "1.0, 1, 4, 1, L1, 8, 64",
    "1.0, 1, 4, 3, L1, 8, 64",
    "1.0, 1, 2, 1, L1, 8, 64",
    "1.0, 1, 8, 4, L2, 8, 64",
    "1.0, 1, 16, 5, L2, 3, 64",
    "1.0, 1, 4, 4, L2, 3, 64",
    "1.0, 1, 4, 0, L2, 3, 64",
    "0.0, 1, 4, 2, L2, 3, 64",
    "0.5, 1, 4, 2, L2, 8, 64",
    "0.3, 1, 4, 4, L1, 7, 60",
    "0.7, 1, 1, 1, L1, 13, 17",
    "0.8, 4, 4, 16, L2, 16, 32",
    "0.5, 4, 1, 2, L1, 16, 9",
    "1.0, 4, 4, 8, L2, 16, 16",
    "1.0, 4, 4, 8, L1, 15, 18",
    "0.6, 3, 5, 15, L2, 11, 17",
    "0.6, 3, 5, 15, L1, 11, 17",
    "0.6, 8, 8, 40, L2, 11, 17",
    "0.999, 4, 4, 16, L2, 4, 4",
    "0.5, 100, 100, 77, L2, 10, 10",
  })
  void everyShapeAndLevelIsAsTheRulesSay(
      double level, int blockRows, int blockColumns, int zeros, Norm norm, int rows, int columns) {
    Config config = new Config(level, new BlockShape(blockRows, blockColumns), zeros, norm);
    for (int seed = 0; seed < 20; seed++) {
      SplittableRandom random = new SplittableRandom(seed);
      Tensor weight = random(random, DType.F32, rows, columns);
      if (seed % 2 == 0) {
        // Few different values, so that ties decide.
        for (long i = 0; i < weight.elements(); i++) {
          weight.setFloat(i, random.nextInt(-2, 3));
        }
      }
      assertThat(mask(weight, config))
          .as("seed %d", seed)
          .containsExactly(reference(weight, config));
    }
  }

  @Test
  void masksAreThoseOfPyTorch() throws IOException {
    for (JsonNode reference : TorchReference.read().get("masks")) {
      Tensor weight =
          TorchReference.weight(
              arena,
              DType.F32,
              reference.get("rows").intValue(),
              reference.get("columns").intValue(),
              reference.get("seed").intValue());
      JsonNode block = reference.get("block");
      Config config =
          new Config(
              reference.get("level").doubleValue(),
              new BlockShape(block.get(0).intValue(), block.get(1).intValue()),
              reference.get("zeros").intValue(),
              reference.get("norm").intValue() == 1 ? Norm.L1 : Norm.L2);
      String mask = reference.get("mask").stringValue();
      assertThat(mask(weight, config))
          .as("%s", config)
          .containsExactly(mask.chars().map(digit -> digit - '0').toArray());
    }
  }

  /** The rules, word for word, with sorted lists. */
  private static int[] reference(Tensor weight, Config config) {
    int rows = (int) weight.extent(0);
    int columns = (int) weight.extent(1);
    int blockRows = config.sparseBlockShape().rows();
    int blockColumns = config.sparseBlockShape().columns();
    List<List<Integer>> blocks = new ArrayList<>();
    for (int row = 0; row < rows; row += blockRows) {
      for (int column = 0; column < columns; column += blockColumns) {
        List<Integer> block = new ArrayList<>();
        for (int r = row; r < Math.min(rows, row + blockRows); r++) {
          for (int c = column; c < Math.min(columns, column + blockColumns); c++) {
            block.add(r * columns + c);
          }
        }
        blocks.add(block);
      }
    }
    int pruned = blocks.size();
    if (config.sparsityLevel() < 1) {
      pruned = (int) Math.min(blocks.size() - 1, Math.rint(config.sparsityLevel() * blocks.size()));
    }
    List<List<Integer>> byNorm = new ArrayList<>(blocks.reversed());
    byNorm.sort(
        Comparator.comparingDouble(block ->
            block.stream()
                .mapToDouble(i -> weight.getFloat(i))
                .map(x -> config.norm() == Norm.L1 ? Math.abs(x) : x * x)
                .average()
                .orElseThrow()));
    int[] mask = new int[rows * columns];
    java.util.Arrays.fill(mask, 1);
    for (List<Integer> block : byNorm.subList(0, config.sparsityLevel() <= 0 ? 0 : pruned)) {
      List<Integer> bySize = new ArrayList<>(block.reversed());
      bySize.sort(Comparator.comparingDouble(i -> Math.abs(weight.getFloat(i))));
      for (int i : bySize.subList(0, Math.min(config.zerosPerBlock(), block.size()))) {
        mask[i] = 0;
      }
    }
    return mask;
  }

  @Test
  void prepareStepAndSquashLeaveADenseWeightThatIsTwoOfFour() {
    HostLayer layer = layer("query", 1, 32, 64);
    HostLayer other = layer("value", 2, 16, 32);
    float[] before = layer.weight.toFloatArray();
    var sparsifier = new WeightNormSparsifier(1.0, new BlockShape(1, 4), 2);

    assertThat(sparsifier.prepare(List.of(layer, other))).isEmpty();
    assertThat(ints(layer.mask)).containsOnly(1).hasSize(32 * 64);
    assertThat(layer.weight.toFloatArray()).containsExactly(before);

    sparsifier.step();
    int[] mask = ints(layer.mask);
    for (int i = 0; i < mask.length; i++) {
      // Bits, so that a pruned negative element is +0.0 and not -0.0.
      assertThat(Float.floatToRawIntBits(layer.weight.getFloat(i)))
          .isEqualTo(mask[i] == 1 ? Float.floatToRawIntBits(before[i]) : 0);
    }
    sparsifier.step();
    assertThat(ints(layer.mask)).containsExactly(mask);

    sparsifier.squashMask();
    assertThat(layer.mask).isNull();
    assertThat(other.mask).isNull();
    assertThat(SparsityPattern.of(layer.weight)).hasToString("2:4");
    Tensor back = SparseSemiStructuredTensor.compress(arena, layer.weight).decompress(arena);
    assertThat(back.segment().mismatch(layer.weight.segment())).isEqualTo(-1);
  }

  @Test
  void whatTrainingPutUnderTheMaskIsGoneAfterSquashing() {
    HostLayer layer = layer("query", 1, 4, 8);
    var sparsifier = new WeightNormSparsifier(Config.SEMI_STRUCTURED);
    sparsifier.prepare(List.of(layer));
    sparsifier.step();
    for (long i = 0; i < layer.weight.elements(); i++) {
      layer.weight.setFloat(i, Float.NEGATIVE_INFINITY);
    }
    int[] mask = ints(layer.mask);
    sparsifier.squashMask();
    for (int i = 0; i < mask.length; i++) {
      assertThat(layer.weight.getFloat(i)).isEqualTo(mask[i] == 1 ? Float.NEGATIVE_INFINITY : 0f);
    }
  }

  @Test
  void aLayerThatCannotTakeThePatternIsNamedAndStaysDense() {
    HostLayer fits = layer("fits", 1, 3, 8);
    HostLayer odd = layer("odd", 2, 4, 6);
    var sparsifier = new WeightNormSparsifier(1.0, new BlockShape(1, 4), 2);
    assertThat(sparsifier.prepare(List.of(odd, fits))).containsExactly("odd");
    float[] before = odd.weight.toFloatArray();
    sparsifier.step();
    assertThat(odd.mask).isNull();
    sparsifier.squashMask();
    assertThat(odd.weight.toFloatArray()).containsExactly(before);
    assertThat(SparsityPattern.of(fits.weight).semiStructured()).isTrue();
    assertThatThrownBy(() -> WeightNormSparsifier.mask(arena, odd.weight, Config.SEMI_STRUCTURED))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("F32 [4, 6]");
  }

  @Test
  void aLayerMayHaveAConfigurationOfItsOwn() {
    HostLayer first = layer("first", 1, 8, 16);
    HostLayer second = layer("second", 2, 8, 16);
    var sparsifier = new WeightNormSparsifier(1.0, new BlockShape(1, 4), 2);
    sparsifier.prepare(
        List.of(first, second),
        Map.of("second", new Config(1.0, new BlockShape(1, 8), 6, Norm.L1)));
    sparsifier.step();
    assertThat(SparsityPattern.of(first.weight)).hasToString("2:4");
    assertThat(SparsityPattern.of(second.weight)).hasToString("2:8");
    sparsifier.squashMask();
    assertThatThrownBy(
            () -> sparsifier.prepare(List.of(first), Map.of("third", Config.SEMI_STRUCTURED)))
        .isInstanceOf(HalveException.class)
        .hasMessage("no layer is named 'third'");
  }

  @Test
  void notANumberIsRefusedByName() {
    HostLayer layer = layer("query", 1, 4, 8);
    layer.weight.setFloat(9, Float.NaN);
    var sparsifier = new WeightNormSparsifier(1.0, new BlockShape(1, 4), 2);
    sparsifier.prepare(List.of(layer));
    assertThatThrownBy(sparsifier::step)
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("query.weight (F32 [4, 8]) is NaN at [1, 1]");
  }

  @Test
  void impossibleConfigurationsAreRefused() {
    BlockShape block = new BlockShape(1, 4);
    for (double level : new double[] {-0.1, 1.1, Double.NaN}) {
      assertThatThrownBy(() -> new WeightNormSparsifier(level, block, 2))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("sparsity level of " + level);
    }
    for (int zeros : new int[] {-1, 5}) {
      assertThatThrownBy(() -> new WeightNormSparsifier(1.0, block, zeros))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining(zeros + " zeros per block of (1, 4)");
    }
  }

  private int[] mask(Tensor weight, Config config) {
    return ints(WeightNormSparsifier.mask(arena, weight, config));
  }

  private static int[] ints(Tensor mask) {
    byte[] bytes = mask.segment().toArray(ValueLayout.JAVA_BYTE);
    int[] ints = new int[bytes.length];
    for (int i = 0; i < ints.length; i++) {
      ints[i] = bytes[i];
    }
    return ints;
  }

  private HostLayer layer(String name, long seed, int rows, int columns) {
    return new HostLayer(arena, name, random(new SplittableRandom(seed), DType.F32, rows, columns));
  }

  private Tensor random(SplittableRandom random, DType dtype, int rows, int columns) {
    Tensor tensor = Tensor.allocate(arena, dtype, rows, columns);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, (float) random.nextDouble(-1, 1));
    }
    return tensor;
  }
}
