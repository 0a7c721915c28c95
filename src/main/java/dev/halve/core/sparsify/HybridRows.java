package dev.halve.core.sparsify;

import dev.halve.core.Tensor;
import dev.halve.core.sparse.HybridTensor;
import java.lang.foreign.Arena;
import java.util.Comparator;
import java.util.List;
import java.util.stream.IntStream;

/**
 * Rows of a pruned weight that stay dense, the rest 2:4, after "Spense" (arXiv 2606.10445): those
 * that pruning hurts most. Rows do not depend on each other in any method, so that a dense row is
 * the row as it was. They are chosen in blocks of {@link HybridTensor#BLOCK_ROWS}.
 */
public final class HybridRows {
  private HybridRows() {}

  /**
   * Puts the rows back that pruning hurt most.
   *
   * @param before the dense weight, a host tensor F32 {@code [out, in]}
   * @param pruned the same weight after pruning; changed in place
   * @param share of the blocks that are to be dense, above 0, below 1; at least one, and one less
   *     than all at most
   * @return {@code pruned}
   */
  public static Tensor restore(Tensor before, Tensor pruned, double share, RowErrors errors) {
    for (int block : mostHurt(before, pruned, share, errors)) {
      long first = (long) block * HybridTensor.BLOCK_ROWS;
      long rows = Math.min(HybridTensor.BLOCK_ROWS, before.extent(0) - first);
      pruned.rows(first, rows).copyFrom(before.rows(first, rows));
    }
    return pruned;
  }

  private static List<Integer> mostHurt(
      Tensor before, Tensor pruned, double share, RowErrors errors) {
    int blocks = Math.toIntExact(Math.ceilDiv(before.extent(0), HybridTensor.BLOCK_ROWS));
    int count = (int) Math.clamp(Math.round(share * blocks), Math.min(1, blocks - 1), blocks - 1);
    double[] hurt = new double[blocks];
    try (Arena scratch = Arena.ofShared()) {
      Tensor delta = Tensor.allocate(scratch, before.dtype(), before.shape().extents());
      for (long i = 0; i < delta.elements(); i++) {
        delta.setFloat(i, before.getFloat(i) - pruned.getFloat(i));
      }
      double[] rows = errors.of(delta);
      for (int row = 0; row < rows.length; row++) {
        hurt[row / HybridTensor.BLOCK_ROWS] += rows[row];
      }
    }
    return IntStream.range(0, blocks)
        .boxed()
        .sorted(Comparator.comparingDouble(block -> -hurt[block]))
        .limit(count)
        .toList();
  }
}
