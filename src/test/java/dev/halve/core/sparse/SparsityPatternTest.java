package dev.halve.core.sparse;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparsityPattern.Kind;
import java.lang.foreign.Arena;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SparsityPatternTest {
  private final Arena arena = Arena.ofConfined();

  @AfterEach
  void close() {
    arena.close();
  }

  @ParameterizedTest
  @CsvSource({"1,2", "1,4", "2,4", "3,4", "2,8", "3,8", "5,8", "4,16", "9,16", "8,32", "31,32"})
  void anyNOfMIsRecognised(int kept, int group) {
    SplittableRandom random = new SplittableRandom(kept * 100L + group);
    Tensor weight = Tensor.allocate(arena, DType.F16, 40, 96);
    for (long first = 0; first < weight.elements(); first += group) {
      for (int placed = 0; placed < kept; ) {
        long index = first + random.nextInt(group);
        if (weight.getFloat(index) == 0) {
          weight.setFloat(index, random.nextInt(1, 100) * -0.5f);
          placed++;
        }
      }
    }
    SparsityPattern pattern = SparsityPattern.of(weight);
    assertThat(pattern).hasToString(kept + ":" + group);
    assertThat(pattern.zeros()).isEqualTo(weight.elements() * (group - kept) / group);
    assertThat(pattern.semiStructured()).isEqualTo(kept <= 2 && group >= 4 || group == 2);
  }

  @Test
  void aSparserWeightInOrderIsStillSemiStructured() {
    Tensor weight = Tensor.allocate(arena, DType.F32, 8, 32);
    assertThat(SparsityPattern.of(weight)).hasToString("0:2");
    assertThat(SparsityPattern.of(weight).semiStructured()).isTrue();
    for (long i = 0; i < weight.elements(); i += 8) {
      weight.setFloat(i, 1);
      weight.setFloat(i + 3, i % 16 == 0 ? 1 : -0.0f);
    }
    assertThat(SparsityPattern.of(weight)).hasToString("3:16");
    assertThat(SparsityPattern.of(weight).semiStructured()).isTrue();
    assertThat(SparsityPattern.of(weight).sparsity()).isEqualTo(13 / 16.0);
  }

  @Test
  void chanceIsNoPattern() {
    SplittableRandom random = new SplittableRandom(7);
    Tensor weight = Tensor.allocate(arena, DType.F32, 64, 64);
    for (long i = 0; i < weight.elements(); i++) {
      weight.setFloat(i, random.nextDouble() < 0.6 ? 0 : 1);
    }
    SparsityPattern pattern = SparsityPattern.of(weight);
    assertThat(pattern.kind()).isEqualTo(Kind.UNSTRUCTURED);
    assertThat(pattern.sparsity()).isBetween(0.55, 0.65);
    assertThat(pattern.toString()).matches("unstructured, [56]\\d\\.\\d% zeros");
    assertThat(pattern.semiStructured()).isFalse();
  }

  @Test
  void aFewZerosLeaveAWeightDense() {
    Tensor weight = Tensor.allocate(arena, DType.BF16, 10, 30);
    for (long i = 0; i < weight.elements(); i++) {
      weight.setFloat(i, i == 17 ? 0 : 1);
    }
    assertThat(SparsityPattern.of(weight)).hasToString("dense");
    assertThat(SparsityPattern.of(weight).zeros()).isEqualTo(1);
    assertThat(SparsityPattern.of(Tensor.allocate(arena, DType.F32, 0, 4))).hasToString("dense");
    assertThat(SparsityPattern.of(Tensor.of(arena, new float[] {1, 2, 3}, 3))).hasToString("dense");
  }
}
