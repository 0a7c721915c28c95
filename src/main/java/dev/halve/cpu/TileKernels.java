package dev.halve.cpu;

import java.util.function.IntFunction;
import java.util.stream.IntStream;

/**
 * The kernels for tiles of a row block by several token counts, the largest first and a single
 * token last.
 *
 * @param tokens of each kernel's tile, descending to 1
 * @param kernels in the same order
 */
record TileKernels(int[] tokens, TileKernel[] kernels) {
  /** Compiles a kernel for {@code mostTokens} and for every power of two below it. */
  static TileKernels compile(int mostTokens, IntFunction<TileKernel> compiler) {
    int[] tokens =
        IntStream.concat(
                IntStream.of(mostTokens),
                IntStream.iterate(Integer.highestOneBit(mostTokens - 1), t -> t > 0, t -> t / 2))
            .toArray();
    TileKernel[] kernels = IntStream.of(tokens).mapToObj(compiler).toArray(TileKernel[]::new);
    return new TileKernels(tokens, kernels);
  }

  int mostTokens() {
    return tokens[0];
  }

  /** Which kernel takes the next tile when so many tokens are left. */
  int next(int tokensLeft) {
    int i = 0;
    while (tokens[i] > tokensLeft) {
      i++;
    }
    return i;
  }
}
