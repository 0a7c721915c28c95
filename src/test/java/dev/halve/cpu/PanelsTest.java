package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class PanelsTest {
  @Test
  void everyTokenLiesInOnePanelAndMembersGetEqualShares() {
    for (int members = 1; members <= 5; members++) {
      Panels panels = new Panels(16, 3000, members);
      for (int tokens = 1; tokens <= 3000; tokens += 37) {
        panels.cut(tokens);
        int next = 0;
        for (int panel = 0; panel < panels.count(); panel++) {
          assertThat(panels.firstToken(panel)).isEqualTo(next);
          assertThat(panels.tokens(panel)).isBetween(1, panels.vectors(panel) * 16);
          assertThat(panels.vectors(panel)).isIn(1, 2, 4, 8);
          for (int token = next; token < next + panels.tokens(panel); token++) {
            assertThat(panels.panelOf(token)).isEqualTo(panel);
          }
          next += panels.tokens(panel);
        }
        assertThat(next).isEqualTo(tokens);
      }
    }
  }

  @Test
  void twoMembersShareThreeHundredAndEightyFourTokensEvenly() {
    Panels panels = new Panels(16, 384, 2);
    panels.cut(384);
    assertThat(panels.count()).isEqualTo(4);
    assertThat(panels.vectors(0) + panels.vectors(2)).isEqualTo(12);
    assertThat(panels.vectors(1) + panels.vectors(3)).isEqualTo(12);
  }
}
