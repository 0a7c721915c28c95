package dev.halve.core.sparsify;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparsityPattern;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class TransposableSparsifierTest {
  private final Arena arena = Arena.ofConfined();
  private final SplittableRandom random = new SplittableRandom(13);

  @AfterEach
  void close() {
    arena.close();
  }

  @Test
  void bothTheWeightAndItsTransposeAreTwoOfFour() {
    HostLayer layer = new HostLayer(arena, "layer", gaussian(24, 40));
    HostLayer odd = new HostLayer(arena, "odd", gaussian(6, 40));
    var sparsifier = new TransposableSparsifier();
    assertThat(sparsifier.prepare(List.of(layer, odd))).containsExactly("odd");
    sparsifier.step();
    sparsifier.squashMask();
    Tensor transposed = Tensor.allocate(arena, DType.F32, 40, 24);
    for (int row = 0; row < 24; row++) {
      for (int column = 0; column < 40; column++) {
        transposed.setFloat(column * 24L + row, layer.weight.getFloat(row * 40L + column));
      }
    }
    assertThat(SparsityPattern.of(layer.weight)).hasToString("2:4");
    assertThat(SparsityPattern.of(transposed)).hasToString("2:4");
  }

  @Test
  void noChoiceOfTwoARowAndTwoAColumnKeepsMore() {
    for (int round = 0; round < 50; round++) {
      Tensor tile = gaussian(4, 4);
      Tensor mask = TransposableSparsifier.mask(arena, tile);
      double kept = 0;
      for (int i = 0; i < 16; i++) {
        kept += mask.segment().get(ValueLayout.JAVA_BYTE, i) * magnitude(tile, i);
      }
      assertThat(kept).isCloseTo(most(tile, 0, new int[4]), within(1e-9));
    }
  }

  /** Row by row, every pair of columns that are not used up. */
  private static double most(Tensor tile, int row, int[] used) {
    if (row == 4) {
      return 0;
    }
    double most = Double.NEGATIVE_INFINITY;
    for (int a = 0; a < 4; a++) {
      for (int b = a + 1; b < 4; b++) {
        if (used[a] < 2 && used[b] < 2) {
          used[a]++;
          used[b]++;
          double here = magnitude(tile, row * 4L + a) + magnitude(tile, row * 4L + b);
          most = Math.max(most, here + most(tile, row + 1, used));
          used[a]--;
          used[b]--;
        }
      }
    }
    return most;
  }

  private static double magnitude(Tensor tensor, long index) {
    return Math.abs((double) tensor.getFloat(index));
  }

  @Test
  void equalChoicesAreDecidedFromTheTopLeft() {
    Tensor mask = TransposableSparsifier.mask(arena, Tensor.allocate(arena, DType.F32, 4, 4));
    assertThat(mask.segment().toArray(ValueLayout.JAVA_BYTE))
        .containsExactly(1, 1, 0, 0, 1, 1, 0, 0, 0, 0, 1, 1, 0, 0, 1, 1);
  }

  @Test
  void shapesWithoutTilesAreRefused() {
    assertThatThrownBy(() -> TransposableSparsifier.mask(arena, gaussian(4, 6)))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("F32 [4, 6]");
  }

  private Tensor gaussian(int rows, int columns) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, rows, columns);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, (float) random.nextGaussian());
    }
    return tensor;
  }
}
