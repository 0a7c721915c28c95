package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;

class SparseGemmTileTest {
  @Test
  void everyTileIsAmongThoseThatTheLayoutIsGuardedFor() {
    for (long tokens : new long[] {64, 6144, 98304}) {
      for (SparseGemmTile.Sm90 tile : SparseGemmTile.hopperCandidates(tokens, 12)) {
        assertThat(SparseGemmLayout.TILE_BLOCKS).contains(tile.out() / 64 * tile.clusterOut());
      }
    }
    for (SparseGemmTile.Sm80 tile : SparseGemmTile.ampereCandidates()) {
      assertThat(SparseGemmLayout.TILE_BLOCKS).contains(tile.out() / 64);
    }
  }

  @Test
  void aPackedModelTakesNineSixteenthsAndALittle() {
    long packed = 0;
    long dense = 0;
    for (int[] extents :
        new int[][] {{768, 768}, {768, 768}, {768, 768}, {768, 768}, {3072, 768}, {768, 3072}}) {
      packed += new SparseGemmLayout(extents[0], extents[1]).bytes();
      dense += 2L * extents[0] * extents[1];
    }
    assertThat(packed / (double) dense).isLessThan(0.57);
  }
}
