package dev.halve.core.sparsify;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import java.util.Comparator;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class NOfMTest {
  @ParameterizedTest
  @ValueSource(strings = {"1:2", "2:4", "4:4", "3:8", "7:16", "9:17", "16:32", "1:100", "100:100"})
  void theLargestStayAndOfEqualOnesTheFirst(String text) {
    NOfM pattern = NOfM.parse(text);
    assertThat(pattern).hasToString(text);
    SplittableRandom random = new SplittableRandom(pattern.group());
    for (int round = 0; round < 200; round++) {
      double[] scores = random.doubles(pattern.group() + 2).toArray();
      if (round % 2 == 0) {
        for (int i = 0; i < scores.length; i++) {
          scores[i] = random.nextInt(4);
        }
      }
      byte[] keep = new byte[pattern.group() + 2];
      keep[0] = 9;
      keep[keep.length - 1] = 9;
      pattern.keepLargest(scores, keep, 1);
      List<Integer> largest =
          IntStream.rangeClosed(1, pattern.group())
              .boxed()
              .sorted(Comparator.comparingDouble((Integer i) -> -scores[i]))
              .limit(pattern.kept())
              .toList();
      for (int i = 1; i <= pattern.group(); i++) {
        assertThat(keep[i]).isEqualTo((byte) (largest.contains(i) ? 1 : 0));
      }
      assertThat(keep[0]).isEqualTo((byte) 9);
      assertThat(keep[keep.length - 1]).isEqualTo((byte) 9);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"", "2", "2:", ":4", "0:4", "5:4", "-1:4", "2:4:8", "a:b", "2 : 4"})
  void whatIsNoPatternIsRefused(String text) {
    assertThatThrownBy(() -> NOfM.parse(text)).isInstanceOf(HalveException.class);
  }
}
