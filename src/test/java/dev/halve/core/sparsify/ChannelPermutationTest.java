package dev.halve.core.sparsify;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class ChannelPermutationTest {
  private final Arena arena = Arena.ofConfined();
  private final SplittableRandom random = new SplittableRandom(14);

  @AfterEach
  void close() {
    arena.close();
  }

  @Test
  void theOrderIsAPermutationThatKeepsWhatItSays() {
    Tensor weight = gaussian(50, 64);
    ChannelPermutation found = ChannelPermutation.search(List.of(weight), 64, 3, 1);
    int[] sorted = found.order();
    Arrays.sort(sorted);
    for (int i = 0; i < 64; i++) {
      assertThat(sorted[i]).isEqualTo(i);
    }
    Tensor permuted = found.permuteInputs(arena, weight);
    assertThat(found.keptBefore()).isCloseTo(kept(weight), within(1e-3));
    assertThat(found.keptAfter()).isCloseTo(kept(permuted), within(1e-3));
    assertThat(found.keptAfter()).isGreaterThan(found.keptBefore()).isLessThan(found.total());
  }

  @Test
  void eightChannelsArePartedAsWellAsCanBe() {
    for (int round = 0; round < 20; round++) {
      Tensor weight = gaussian(5, 8);
      double most = best(weight, List.of(), remaining(8));
      ChannelPermutation found = ChannelPermutation.search(List.of(weight), 8, 0, 1);
      assertThat(found.keptAfter()).isCloseTo(most, within(1e-4));
    }
  }

  @Test
  void twelveChannelsArePartedNearlyAsWellAsCanBe() {
    for (int round = 0; round < 10; round++) {
      Tensor weight = gaussian(6, 12);
      double most = best(weight, List.of(), remaining(12));
      ChannelPermutation found = ChannelPermutation.search(List.of(weight), 12, 20, 1);
      assertThat(found.keptAfter()).isGreaterThan(0.999 * most).isLessThan(most + 1e-4);
    }
  }

  private static List<Integer> remaining(int channels) {
    List<Integer> all = new ArrayList<>();
    for (int i = 0; i < channels; i++) {
      all.add(i);
    }
    return all;
  }

  /** Every way to part the channels into fours; the first that is left begins the next group. */
  private static double best(Tensor weight, List<Integer> group, List<Integer> left) {
    if (group.size() == 4) {
      return keptOf(weight, group) + best(weight, List.of(), left);
    }
    if (left.isEmpty()) {
      return 0;
    }
    double most = 0;
    for (int i = 0; i < (group.isEmpty() ? 1 : left.size()); i++) {
      if (!group.isEmpty() && left.get(i) < group.getLast()) {
        continue;
      }
      List<Integer> larger = new ArrayList<>(group);
      larger.add(left.get(i));
      List<Integer> fewer = new ArrayList<>(left);
      fewer.subList(i, i + 1).clear();
      most = Math.max(most, best(weight, larger, fewer));
    }
    return most;
  }

  private static double keptOf(Tensor weight, List<Integer> group) {
    double kept = 0;
    for (long row = 0; row < weight.extent(0); row++) {
      double[] magnitudes = new double[4];
      for (int i = 0; i < 4; i++) {
        magnitudes[i] = Math.abs(weight.getFloat(row * weight.extent(1) + group.get(i)));
      }
      Arrays.sort(magnitudes);
      kept += magnitudes[2] + magnitudes[3];
    }
    return kept;
  }

  private static double kept(Tensor weight) {
    double kept = 0;
    for (int first = 0; first < weight.extent(1); first += 4) {
      kept += keptOf(weight, List.of(first, first + 1, first + 2, first + 3));
    }
    return kept;
  }

  @Test
  void aWeightThatWasTwoOfFourBeforeItWasShuffledBecomesSoAgain() {
    int in = 32;
    Tensor weight = gaussian(40, in);
    Sparsifier.apply(
        WeightNormSparsifier.mask(arena, weight, WeightNormSparsifier.Config.SEMI_STRUCTURED),
        weight);
    Tensor shuffled = Tensor.allocate(arena, DType.F32, 40, in);
    for (int row = 0; row < 40; row++) {
      for (int i = 0; i < in; i++) {
        shuffled.setFloat(row * (long) in + i * 13 % in, weight.getFloat(row * (long) in + i));
      }
    }
    ChannelPermutation found = ChannelPermutation.search(List.of(shuffled), in, 30, 1);
    assertThat(found.keptBefore()).isLessThan(0.9 * found.total());
    assertThat(found.keptAfter()).isCloseTo(found.total(), within(1e-3));
  }

  @Test
  void channelsStayInTheirSegments() {
    Tensor weight = gaussian(20, 48);
    int[] order = ChannelPermutation.search(List.of(weight), 12, 2, 1).order();
    for (int i = 0; i < 48; i++) {
      assertThat(order[i] / 12).isEqualTo(i / 12);
    }
    assertThat(ChannelPermutation.search(List.of(weight), 4, 2, 1).keptAfter())
        .isCloseTo(kept(weight), within(1e-3));
  }

  @Test
  void aWeightInPartsIsSearchedLikeTheWhole() {
    Tensor weight = gaussian(21, 32);
    ChannelPermutation whole = ChannelPermutation.search(List.of(weight), 32, 4, 9);
    ChannelPermutation parts =
        ChannelPermutation.search(List.of(weight.rows(0, 10), weight.rows(10, 11)), 32, 4, 9);
    assertThat(parts.order()).containsExactly(whole.order());
  }

  @Test
  void foldedIntoItsNeighboursItLeavesTheFunctionAsItWas() {
    int hidden = 24;
    Tensor first = gaussian(hidden, 10);
    Tensor bias = gaussian(1, hidden).reshape(hidden);
    Tensor second = gaussian(7, hidden);
    ChannelPermutation found = ChannelPermutation.search(List.of(second), hidden, 2, 1);
    Tensor x = gaussian(1, 10);
    double[] before = twoLayers(x, first, bias, second);
    double[] after =
        twoLayers(
            x,
            found.permuteOutputs(arena, first),
            found.permuteOutputs(arena, bias),
            found.permuteInputs(arena, second));
    assertThat(found.order()).isNotEqualTo(remaining(hidden).stream().mapToInt(i -> i).toArray());
    for (int i = 0; i < before.length; i++) {
      assertThat(after[i]).isCloseTo(before[i], within(1e-12));
    }
  }

  private static double[] twoLayers(Tensor x, Tensor first, Tensor bias, Tensor second) {
    double[] middle = new double[(int) first.extent(0)];
    for (int row = 0; row < middle.length; row++) {
      double sum = bias.getFloat(row);
      for (int i = 0; i < x.elements(); i++) {
        sum += (double) first.getFloat(row * x.elements() + i) * x.getFloat(i);
      }
      middle[row] = Math.tanh(sum);
    }
    double[] result = new double[(int) second.extent(0)];
    for (int row = 0; row < result.length; row++) {
      for (int i = 0; i < middle.length; i++) {
        result[row] += second.getFloat((long) row * middle.length + i) * middle[i];
      }
    }
    return result;
  }

  @Test
  void impossibleRequestsAreRefused() {
    Tensor weight = gaussian(3, 24);
    for (int segment : new int[] {0, 6, 16, 48}) {
      assertThatThrownBy(() -> ChannelPermutation.search(List.of(weight), segment, 0, 1))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("24 channels in segments of " + segment);
    }
    assertThatThrownBy(() -> ChannelPermutation.search(List.of(weight, gaussian(3, 20)), 24, 0, 1))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("F32 [3, 20]");
  }

  private Tensor gaussian(int rows, int columns) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, rows, columns);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, (float) random.nextGaussian());
    }
    return tensor;
  }
}
