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
 * @param dense products with a dense weight, for tiles of 1, 2 and, of 16 lanes, 4 vectors
 * @param attention dense products, for tiles of 1, 2 and 3 vectors
 */
record PanelKernels(
    int lanes,
    SparsePanelKernel[] sparse,
    DenseTile[] dense,
    DensePanelKernels[] attention,
    TransposeKernel transpose) {
  static PanelKernels compile(int lanes) {
    // With AVX-512 there are 32 registers, otherwise 16.
    int sums = lanes >= 16 ? 16 : 8;
    return new PanelKernels(
        lanes,
        byWidth(
            Panels.MOST_VECTORS,
            SparsePanelKernel[]::new,
            v -> PanelCompiler.sparsePanel(lanes, v, Math.min(4, sums / v))),
        dense(lanes, (v, rows) -> PanelCompiler.denseTile(lanes, v, rows, rowsTogether(lanes))),
        attention((vectors, rows) -> PanelCompiler.densePanel(lanes, vectors, rows)),
        TransposeCompiler.transpose(lanes));
  }

  /** Rows of a dense weight that lie together. */
  int rowsTogether() {
    return rowsTogether(lanes);
  }

  private static int rowsTogether(int lanes) {
    return lanes >= 16 ? 8 : 6;
  }

  /**
   * Of a panel that only dense weights will meet. Its inputs lie one after another if it is as wide
   * as a tile, which with AVX2 is worth more than weights that meet many tokens while they are
   * near.
   */
  int denseVectors() {
    return lanes >= 16 ? Panels.MOST_VECTORS : dense[dense.length - 1].vectors();
  }

  /** The widest tile for panels of so many vectors. */
  DenseTile denseTile(int vectors) {
    return dense[Math.min(dense.length - 1, logarithm(vectors))];
  }

  /** With 16 registers six rows by two vectors, otherwise sixteen sums. */
  private static DenseTile[] dense(
      int lanes, BiFunction<Integer, Integer, DenseTile.Kernel> compiler) {
    int together = rowsTogether(lanes);
    return byWidth(
        lanes >= 16 ? 4 : 2,
        DenseTile[]::new,
        vectors -> {
          int rows = lanes >= 16 ? Math.min(together, 16 / vectors) : together;
          return new DenseTile(rows, vectors, compiler.apply(vectors, rows));
        });
  }

  /**
   * Tokens of a 2:4 product for which it pays to turn them about. Tiles need as many permutations
   * as multiply-adds, of which AVX2 does one a cycle and no more; with 16 registers they spill as
   * well.
   */
  int fewestTokens() {
    return lanes == 8 ? 6 : 96;
  }

  /** Plain loops, for JVMs without vectors of at least four floats. */
  static PanelKernels scalar() {
    int lanes = Math.max(4, VectorMath.LANES);
    return new PanelKernels(
        lanes,
        byWidth(Panels.MOST_VECTORS, SparsePanelKernel[]::new, v -> ScalarPanels.sparse(v * lanes)),
        dense(lanes, (v, rows) -> ScalarPanels.denseTile(v * lanes, rows, rowsTogether(lanes))),
        attention((vectors, rows) -> ScalarPanels.dense(vectors * lanes, rows)),
        ScalarPanels.transpose(lanes));
  }

  /** Three vectors by four rows: twelve sums, three inputs and a factor fill 16 registers. */
  private static DensePanelKernels[] attention(
      BiFunction<Integer, Integer, DensePanelKernel> compiler) {
    return IntStream.rangeClosed(1, PanelAttention.STRIPE)
        .mapToObj(vectors ->
            DensePanelKernels.compile(vectors == 1 ? 8 : 4, rows -> compiler.apply(vectors, rows)))
        .toArray(DensePanelKernels[]::new);
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
