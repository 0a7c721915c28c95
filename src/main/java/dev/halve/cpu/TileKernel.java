package dev.halve.cpu;

/**
 * One tile of a product: some tokens by some features, {@code y = bias + x · weightᵀ}, with the
 * sums kept in registers from beginning to end. {@link TileCompiler} writes the implementations.
 * All arguments but {@code steps} are addresses and distances in bytes.
 */
@FunctionalInterface
interface TileKernel {
  /**
   * @param weight the first step's part of the packed weight
   * @param weightPitch from one step's part of the weight to the next
   * @param x the first token's first input
   * @param xPitch from one token's inputs to the next one's
   * @param bias of the tile's features, one for all tokens
   * @param y the first token's first output
   * @param yPitch from one token's outputs to the next one's
   * @param steps along the inputs; how many inputs a step takes is the kernel's own matter
   */
  void run(
      long weight,
      long weightPitch,
      long x,
      long xPitch,
      long bias,
      long y,
      long yPitch,
      int steps);
}
