package dev.halve.core.sparsify;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparsityPattern;
import java.lang.foreign.Arena;
import java.util.List;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SparsityScheduleTest {
  @ParameterizedTest
  @CsvSource({
    // By hand: 0.9 + (0.1 - 0.9) · (1 - t / 4)³ at t = 0 to 4.
    "0, 0.1",
    "9, 0.1",
    "10, 0.1",
    "14, 0.1",
    "15, 0.5625",
    "19, 0.5625",
    "20, 0.8",
    "25, 0.8875",
    "29, 0.8875",
    "30, 0.9",
    "1000000, 0.9"
  })
  void cubicRisesFastAndThenSlowly(int step, double level) {
    SparsitySchedule cubic = new SparsitySchedule.Cubic(0.1, 0.9, 10, 5, 4);
    assertThat(cubic.level(step)).isCloseTo(level, within(1e-12));
  }

  @Test
  void masksAreChosenAnewWhereTheLevelMoves() {
    SparsitySchedule cubic = new SparsitySchedule.Cubic(0, 1, 2, 3, 2);
    assertThat(IntStream.range(0, 12).filter(cubic::changesAt)).containsExactly(0, 5, 8);
    SparsitySchedule oneShot = new SparsitySchedule.OneShot(0.5, 4);
    assertThat(IntStream.range(0, 12).filter(oneShot::changesAt)).containsExactly(0, 4);
    assertThat(oneShot.level(3)).isZero();
    assertThat(oneShot.level(4)).isEqualTo(0.5);
  }

  @Test
  void lambdaScalesTheBase() {
    SparsitySchedule lambda = new SparsitySchedule.Lambda(0.8, step -> step / 10.0);
    assertThat(lambda.level(5)).isCloseTo(0.4, within(1e-12));
    assertThatThrownBy(() -> lambda.level(20))
        .isInstanceOf(HalveException.class)
        .hasMessageContainingAll("step 20", "1.6");
  }

  @Test
  void aSparsifierFollowsTheScheduleToTwoOfFour() {
    SparsitySchedule schedule = new SparsitySchedule.Cubic(0, 1, 0, 1, 4);
    try (Arena arena = Arena.ofConfined()) {
      Tensor weight = Tensor.allocate(arena, DType.F32, 16, 32);
      for (long i = 0; i < weight.elements(); i++) {
        weight.setFloat(i, (float) (1 + i * 37 % 101));
      }
      HostLayer layer = new HostLayer(arena, "layer", weight);
      WeightNormSparsifier sparsifier = new WeightNormSparsifier(0, new BlockShape(1, 4), 2);
      sparsifier.prepare(List.of(layer));
      for (int step = 0; step <= 4; step++) {
        sparsifier.setSparsityLevel(schedule.level(step));
        sparsifier.step();
        // Two of every four in the share of the 128 blocks that the paper's formula gives.
        double share = 1 - Math.pow(1 - step / 4.0, 3);
        assertThat(SparsityPattern.of(weight).zeros()).isEqualTo(2 * Math.round(128 * share));
      }
      sparsifier.squashMask();
      assertThat(SparsityPattern.of(weight).semiStructured()).isTrue();
    }
  }

  @Test
  void impossibleSchedulesAreRefused() {
    assertThatThrownBy(() -> new SparsitySchedule.Cubic(0, 1.5, 0, 1, 4))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("1.5");
    assertThatThrownBy(() -> new SparsitySchedule.Cubic(0, 1, 0, 0, 4))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("every 0 steps");
    assertThatThrownBy(() -> new SparsitySchedule.OneShot(Double.NaN, 0))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("NaN");
    assertThatThrownBy(() -> new SparsitySchedule.OneShot(1, -1))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("-1");
  }
}
