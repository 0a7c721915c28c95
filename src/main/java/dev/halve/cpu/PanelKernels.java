package dev.halve.cpu;

import java.util.function.BiFunction;
import java.util.function.IntFunction;
import java.util.stream.IntStream;

/**
 * The kernels over {@link Panels}. Arrays are by the width's binary logarithm, but for {@code
 * attention}.
 *
 * @param lanes tokens of a vector
 * @param sparse products with a 2:4 weight, for panels of 1, 2, 4 and 8 vectors
 * @param dense products, for tiles of 1, 2 and 4 vectors
 * @param attention dense products, for tiles of 1, 2 and 3 vectors
 */
record PanelKernels(
    int lanes,
    SparsePanelKernel[] sparse,
    DenseTiles[] dense,
    DenseTiles[] attention,
    TransposeKernel transpose) {
  /** The widest tile of dense kernels. */
  static final int DENSE_VECTORS = 4;

  private static final int MOST_ROWS = 8;

  static PanelKernels compile(int lanes) {
    // With AVX-512 there are 32 registers, otherwise 16.
    int sums = lanes >= 16 ? 16 : 8;
    return new PanelKernels(
        lanes,
        byWidth(
            Panels.MOST_VECTORS,
            SparsePanelKernel[]::new,
            v -> KernelCompiler.sparsePanel(lanes, v, Math.min(4, sums / v))),
        byWidth(DENSE_VECTORS, DenseTiles[]::new, v -> dense(lanes, v)),
        attention((vectors, rows) -> KernelCompiler.densePanel(lanes, vectors, rows)),
        KernelCompiler.transpose(lanes));
  }

  private static DenseTiles dense(int lanes, int vectors) {
    int sums = lanes >= 16 ? 16 : 8;
    return DenseTiles.compile(
        Math.min(MOST_ROWS, sums / vectors),
        rows -> KernelCompiler.densePanel(lanes, vectors, rows));
  }

  /**
   * Tokens of a 2:4 product for which it pays to turn them about. Tiles need as many permutations
   * as multiply-adds, of which AVX2 does one a cycle and no more; with 16 registers they spill as
   * well.
   */
  int fewestTokens() {
    return lanes == 8 ? 16 : 96;
  }

  /** Plain loops, for JVMs without vectors of at least four floats. */
  static PanelKernels scalar() {
    int lanes = Math.max(4, VectorMath.LANES);
    return new PanelKernels(
        lanes,
        byWidth(Panels.MOST_VECTORS, SparsePanelKernel[]::new, v -> ScalarPanels.sparse(v * lanes)),
        byWidth(DENSE_VECTORS, DenseTiles[]::new, v -> scalar(v * lanes)),
        attention((vectors, rows) -> ScalarPanels.dense(vectors * lanes, rows)),
        ScalarPanels.transpose(lanes));
  }

  private static DenseTiles scalar(int tokens) {
    return DenseTiles.compile(MOST_ROWS, rows -> ScalarPanels.dense(tokens, rows));
  }

  /** Three vectors by four rows: twelve sums, three inputs and a factor fill 16 registers. */
  private static DenseTiles[] attention(BiFunction<Integer, Integer, DensePanelKernel> compiler) {
    return IntStream.rangeClosed(1, PanelAttention.STRIPE)
        .mapToObj(vectors ->
            DenseTiles.compile(vectors == 1 ? 8 : 4, rows -> compiler.apply(vectors, rows)))
        .toArray(DenseTiles[]::new);
  }

  private static <T> T[] byWidth(int most, IntFunction<T[]> array, IntFunction<T> compiler) {
    T[] all = array.apply(logarithm(most) + 1);
    for (int i = 0; i < all.length; i++) {
      all[i] = compiler.apply(1 << i);
    }
    return all;
  }

  /** Where a width's kernels stand. */
  static int logarithm(int vectors) {
    return Integer.numberOfTrailingZeros(vectors);
  }
}
