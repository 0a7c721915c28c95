package dev.halve.cpu;

/**
 * The kernels that this machine runs.
 *
 * @param tiles for 2:4 weights and a few tokens
 * @param panels for many tokens
 */
record CpuKernels(TileKernels tiles, PanelKernels panels) {
  /** Compiled at the first use, once a process. */
  static CpuKernels best() {
    return Best.KERNELS;
  }

  private static final class Best {
    private static final CpuKernels KERNELS = compile(VectorMath.LANES);
  }

  /** Kernels for vectors of so many floats; plain loops where there are hardly any. */
  static CpuKernels compile(int lanes) {
    if (lanes < 4) {
      return new CpuKernels(TileKernels.compile(8, ScalarTiles::sparse), PanelKernels.scalar());
    }
    // As many sums as leave registers for the operands: 32 with AVX-512, otherwise 16. More than
    // five tokens go by panels with AVX2.
    int tokens = lanes == 16 ? 12 : lanes == 8 ? 4 : 8;
    return new CpuKernels(
        TileKernels.compile(tokens, t -> TileCompiler.sparse(lanes, t)), PanelKernels.best(lanes));
  }
}
