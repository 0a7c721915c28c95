package dev.halve.cpu;

import java.util.function.BiFunction;
import java.util.function.IntFunction;
import java.util.stream.IntStream;

/**
 * The kernels over {@link Panels}, narrowest first.
 *
 * @param lanes tokens of a vector
 * @param sparse products with a 2:4 weight, for panels of one vector and more
 * @param dense products with a dense weight, for tiles of 1, 2 and, of 16 lanes, 4 vectors
 * @param attention dense products, for tiles of 1, 2 and 3 vectors
 */
record PanelKernels(
    int lanes,
    SparsePanelKernel[] sparse,
    DenseTile[] dense,
    DensePanelKernels[] attention,
    TransposeKernel transpose) {
  /** The fastest for vectors of so many floats. */
  static PanelKernels best(int lanes) {
    return lanes >= 8 && lanes <= VectorMath.LANES && MachineCode.supported()
        ? assemble(lanes)
        : compile(lanes);
  }

  private static PanelKernels assemble(int lanes) {
    int together = rowsTogether(lanes);
    return new PanelKernels(
        lanes,
        sparse(PairPanelAssembler.MOST_VECTORS, v -> PairPanelAssembler.kernel(lanes, v)),
        dense(lanes, (v, rows) -> DensePanelAssembler.tile(lanes, v, rows, together)),
        attention((v, rows) -> DensePanelAssembler.panel(lanes, v, rows)),
        lanes == 8 ? TransposeAssembler.transpose() : TransposeCompiler.transpose(lanes).each());
  }

  /** What the JIT makes of Java, on any processor. */
  static PanelKernels compile(int lanes) {
    int together = rowsTogether(lanes);
    return new PanelKernels(
        lanes,
        sparse(PanelCompiler.MOST_VECTORS, v -> PanelCompiler.sparsePanel(lanes, v)),
        dense(lanes, (v, rows) -> PanelCompiler.denseTile(lanes, v, rows, together)),
        attention((v, rows) -> PanelCompiler.densePanel(lanes, v, rows)),
        TransposeCompiler.transpose(lanes).each());
  }

  /** Of the widest panel that meets 2:4 weights. */
  int mostVectors() {
    return sparse.length;
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
    return lanes >= 16 ? 8 : dense[dense.length - 1].vectors();
  }

  /** The widest tile for panels of so many vectors. */
  DenseTile denseTile(int vectors) {
    return dense[Math.min(dense.length - 1, 31 - Integer.numberOfLeadingZeros(vectors))];
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
        sparse(PanelCompiler.MOST_VECTORS, v -> ScalarPanels.sparse(v * lanes)),
        dense(lanes, (v, rows) -> ScalarPanels.denseTile(v * lanes, rows, rowsTogether(lanes))),
        attention((vectors, rows) -> ScalarPanels.dense(vectors * lanes, rows)),
        ScalarPanels.transpose(lanes).each());
  }

  /** By the panel's vectors. */
  private static SparsePanelKernel[] sparse(
      int mostVectors, IntFunction<SparsePanelKernel> compiler) {
    return IntStream.rangeClosed(1, mostVectors)
        .mapToObj(compiler)
        .toArray(SparsePanelKernel[]::new);
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
    T[] all = array.apply(Integer.numberOfTrailingZeros(most) + 1);
    for (int i = 0; i < all.length; i++) {
      all[i] = compiler.apply(1 << i);
    }
    return all;
  }
}
