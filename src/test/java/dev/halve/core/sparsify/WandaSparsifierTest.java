package dev.halve.core.sparsify;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparsityPattern;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class WandaSparsifierTest {
  private final Arena arena = Arena.ofConfined();
  private final SplittableRandom random = new SplittableRandom(11);

  @AfterEach
  void close() {
    arena.close();
  }

  @ParameterizedTest
  @ValueSource(strings = {"2:4", "1:4", "3:8", "24:48"})
  void whatStaysIsWhatThePaperScoresHighest(String text) {
    NOfM pattern = NOfM.parse(text);
    Tensor weight = random(10, 48);
    InputNorms norms = new InputNorms(48);
    List<Tensor> batches = List.of(random(7, 48), random(1, 48), random(20, 48));
    batches.forEach(norms::add);
    Tensor mask = WandaSparsifier.mask(arena, weight, norms.norms(arena), pattern);

    double[] expectedNorms = new double[48];
    for (int column = 0; column < 48; column++) {
      for (Tensor batch : batches) {
        for (long row = 0; row < batch.extent(0); row++) {
          expectedNorms[column] += Math.pow(batch.getFloat(row * 48 + column), 2);
        }
      }
    }
    for (int row = 0; row < 10; row++) {
      for (int group = 0; group < 48; group += pattern.group()) {
        List<Integer> byScore = new ArrayList<>();
        for (int i = group; i < group + pattern.group(); i++) {
          byScore.add(i);
        }
        int start = row * 48;
        byScore.sort(
            Comparator.comparingDouble(
                i -> -Math.abs(weight.getFloat(start + i)) * Math.sqrt(expectedNorms[i])));
        for (int rank = 0; rank < pattern.group(); rank++) {
          assertThat(mask.segment().get(ValueLayout.JAVA_BYTE, start + byScore.get(rank)))
              .isEqualTo((byte) (rank < pattern.kept() ? 1 : 0));
        }
      }
    }
  }

  @Test
  void aLoudInputKeepsASmallWeight() {
    Tensor weight = Tensor.of(arena, new float[] {1, 2, 3, 4}, 1, 4);
    Tensor norms = Tensor.of(arena, new float[] {100, 1, 1, 1}, 4);
    HostLayer layer = new HostLayer(arena, "layer", weight);
    var sparsifier = new WandaSparsifier(NOfM.TWO_OF_FOUR, _ -> norms);
    sparsifier.prepare(List.of(layer));
    sparsifier.step();
    sparsifier.squashMask();
    assertThat(layer.weight.toFloatArray()).containsExactly(1, 0, 0, 4);
    assertThat(SparsityPattern.of(layer.weight).semiStructured()).isTrue();
  }

  @Test
  void aLayerWithoutCalibrationIsNamed() {
    HostLayer layer = new HostLayer(arena, "query", random(4, 8));
    for (Tensor norms : new Tensor[] {null, Tensor.allocate(arena, DType.F32, 4)}) {
      var sparsifier = new WandaSparsifier(NOfM.TWO_OF_FOUR, _ -> norms);
      sparsifier.prepare(List.of(layer));
      assertThatThrownBy(sparsifier::step)
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("query: norms of inputs")
          .hasMessageContaining("F32 [8]");
    }
    assertThatThrownBy(() ->
            WandaSparsifier.mask(arena, random(4, 6), random(1, 6).reshape(6), NOfM.TWO_OF_FOUR))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("F32 [4, 6] cannot be 2:4");
  }

  private Tensor random(int rows, int columns) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, rows, columns);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, (float) random.nextGaussian());
    }
    return tensor;
  }
}
