package dev.halve.cpu;

/**
 * A kernel for some rows of a {@link PackedDenseWeight} and some vectors of a panel's tokens.
 *
 * @param rows as many as the weight has together, or a part of them
 */
record DenseTile(int rows, int vectors, Kernel kernel) {
  /** Adds a tile of the product with some of a panel's inputs to that panel's outputs. */
  @FunctionalInterface
  interface Kernel {
    /**
     * @param weight address of the first row's value at the first of the inputs
     * @param x address of the first input's first token
     * @param y address of the first row's first token
     * @param pitch bytes from one feature of the panels to the next
     * @param inputs to take, at least one
     */
    void run(long weight, long x, long y, long pitch, int inputs);
  }
}
