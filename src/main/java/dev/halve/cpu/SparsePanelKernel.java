package dev.halve.cpu;

/** Adds a 2:4 row block's product with some of a panel's inputs to that panel's outputs. */
@FunctionalInterface
interface SparsePanelKernel {
  /**
   * @param weight address of a row block's first block, of {@link PackedSparseWeight}
   * @param x address of that block's first input in the panel
   * @param y address of the row block's first output in the panel
   * @param blocks to take, of {@link PackedSparseWeight#BLOCK} inputs each
   * @param passBytes {@link PanelCompiler#PASS_BYTES}: a constant that the JIT must not know
   */
  void run(long weight, long x, long y, int blocks, long passBytes);
}
