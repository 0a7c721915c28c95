package dev.halve.cpu;

/** Adds the product of some rows and columns of a 2:4 weight to a panel's outputs. */
@FunctionalInterface
interface SparsePanelKernel {
  /**
   * @param weight address of a group's first block in a chunk, of {@link PairedSparseWeight}
   * @param x address of the chunk's first input in the panel
   * @param y address of the group's first output in the panel
   * @param blocks of the group
   */
  void run(long weight, long x, long y, int blocks);
}
