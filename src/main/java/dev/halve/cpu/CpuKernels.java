package dev.halve.cpu;

/**
 * The kernels that this machine runs.
 *
 * @param sparse for 2:4 weights
 * @param dense for dense weights
 * @param attention for the products of attention: narrower tiles, since a head is no wider
 */
record CpuKernels(TileKernels sparse, TileKernels dense, TileKernels attention) {
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
      return new CpuKernels(
          TileKernels.compile(16, 8, tokens -> ScalarTiles.sparse(16, tokens)),
          TileKernels.compile(16, 8, tokens -> ScalarTiles.dense(16, tokens)),
          TileKernels.compile(16, 8, tokens -> ScalarTiles.dense(16, tokens)));
    }
    // As many accumulators as leave registers for the operands: 32 with AVX-512, otherwise 16.
    int sparseTokens = lanes == 16 ? 12 : 8;
    int denseVectors = lanes == 16 ? 4 : 2;
    int attentionTokens = lanes == 16 ? 8 : 6;
    return new CpuKernels(
        TileKernels.compile(lanes, sparseTokens, tokens -> KernelCompiler.sparse(lanes, tokens)),
        TileKernels.compile(
            denseVectors * lanes, 6, tokens -> KernelCompiler.dense(lanes, tokens, denseVectors)),
        TileKernels.compile(
            2 * lanes, attentionTokens, tokens -> KernelCompiler.dense(lanes, tokens, 2)));
  }
}
