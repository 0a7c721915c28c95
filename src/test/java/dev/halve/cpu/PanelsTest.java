package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class PanelsTest {
  @ParameterizedTest
  @ValueSource(ints = {2, 6})
  void everyTokenLiesInOnePanelAndMembersGetEqualShares(int mostVectors) {
    for (int members = 1; members <= 5; members++) {
      Panels panels = new Panels(16, 3000, members, mostVectors, 3);
      for (int tokens = 1; tokens <= 3000; tokens += 37) {
        panels.cut(tokens);
        int next = 0;
        int panel = 0;
        for (int group = 0; group < panels.groups(); group++) {
          assertThat(panels.firstPanel(group)).isEqualTo(panel);
          assertThat(panels.panels(group)).isBetween(1, 3);
          for (int i = 0; i < panels.panels(group); i++) {
            assertThat(panels.firstToken(panel)).isEqualTo(next);
            assertThat(panels.tokens(panel)).isBetween(1, panels.vectors(panel) * 16);
            assertThat(panels.vectors(panel)).isBetween(1, mostVectors);
            assertThat(panels.vectors(panel)).isEqualTo(panels.vectors(panels.firstPanel(group)));
            for (int token = next; token < next + panels.tokens(panel); token++) {
              assertThat(panels.panelOf(token)).isEqualTo(panel);
            }
            next += panels.tokens(panel);
            panel++;
          }
        }
        assertThat(next).isEqualTo(tokens);
      }
    }
  }

  @Test
  void twoMembersShareThreeHundredAndEightyFourTokensEvenly() {
    Panels panels = new Panels(16, 384, 2, 6, 1);
    panels.cut(384);
    assertThat(panels.groups()).isEqualTo(4);
    assertThat(panels.vectors(0) + panels.vectors(2)).isEqualTo(12);
    assertThat(panels.vectors(1) + panels.vectors(3)).isEqualTo(12);
  }

  @Test
  void groupsBecomeSmallerTowardsTheEnd() {
    Panels panels = new Panels(8, 1536, 2, 6, 4);
    panels.cut(1536);
    int[] sizes = IntStream.range(0, panels.groups()).map(panels::panels).toArray();
    assertThat(sizes).containsExactly(4, 4, 4, 4, 4, 4, 4, 2, 1, 1);
  }
}
