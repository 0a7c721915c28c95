package dev.halve.cuda;

import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * One way to cut the product {@code y[tokens, out] = epilogue(x[tokens, in] * W^T)} into tiles: the
 * compile-time constants of {@code sparse_gemm_sm90.cu} or {@code sparse_gemm_sm80.cu} and what a
 * launch needs to know of them. Any tile is right for any shape; which is fastest is measured.
 */
sealed interface SparseGemmTile {
  /**
   * What happens to a product before it is rounded and stored. The last three have a LayerNorm in
   * them, as the head of {@code sparse_gemm_sm90.cu} says, and that kernel alone.
   */
  enum Epilogue {
    /** {@code product + bias}. */
    BIAS,
    /** {@code gelu(product + bias)}, the error-function form. */
    BIAS_GELU,
    /** {@code product + bias + residual[tokens, out]}; the residual may be y itself. */
    BIAS_RESIDUAL,
    /** BIAS with the rows of x normalised. */
    NORM_BIAS,
    /** BIAS_GELU with the rows of x normalised. */
    NORM_BIAS_GELU,
    /** BIAS_RESIDUAL with the rows of the residual normalised; y's moments are written. */
    BIAS_NORM_RESIDUAL;

    boolean hasNorm() {
      return ordinal() >= NORM_BIAS.ordinal();
    }

    /** The compile-time constants that the kernels know it by. */
    private Map<String, Integer> definitions() {
      return Map.of("EPILOGUE", ordinal() % 3, "NORM", ordinal() / 3);
    }
  }

  /** Blocks of 64 inputs whose weight fits beside 192 tokens' sums in a thread's registers. */
  int MOST_HELD = 12;

  /** The kernel's entry, which is also the name of its file in src/main/cuda. */
  String entry();

  /** The tile's own compile-time constants. */
  Map<String, Integer> definitions();

  /** The kernel's compile-time constants, but for the element type's. */
  default Map<String, String> definitions(Epilogue epilogue) {
    Map<String, String> all = new HashMap<>();
    definitions().forEach((name, value) -> all.put(name, value.toString()));
    epilogue.definitions().forEach((name, value) -> all.put(name, value.toString()));
    return all;
  }

  /** Threads of a block. */
  int threads();

  /** Dynamic shared memory of a block in bytes. */
  int sharedBytes(Epilogue epilogue);

  /**
   * Hopper: {@code warpgroups} times {@code blocks} blocks of 64 outputs by {@code tokens} tokens.
   * A grid of {@code clusterBlocks() * clusters(...)} blocks.
   *
   * @param warpgroups consumer warpgroups, 1 to 3, one above another along out
   * @param blocks blocks of 64 outputs of a warpgroup, 1 or 2
   * @param tokens tokens of a tile: 64, 96, 128, 192 or 256
   * @param stages tiles in flight from device memory
   * @param clusterOut blocks of a cluster along out, which share their tile of x; a divisor of
   *     {@code tokens / 8}
   * @param clusterTokens blocks of a cluster along the tokens, which share their tile of W
   * @param storeTokens tokens that leave at once; a divisor of {@code tokens}, multiple of 16
   * @param storeBuffers such pieces in flight for each warpgroup
   * @param residents blocks that share a multiprocessor: 1, or 2 of at most 96 tokens and half the
   *     shared memory each
   * @param held where the consumers hold the weight in registers, of one block of outputs each and
   *     as many inputs as the product has: those inputs, in blocks of 64; 0 where the weight comes
   *     through the stages
   */
  record Sm90(
      int warpgroups,
      int blocks,
      int tokens,
      int stages,
      int clusterOut,
      int clusterTokens,
      int storeTokens,
      int storeBuffers,
      int residents,
      int held)
      implements SparseGemmTile {
    @Override
    public String entry() {
      return "sparse_gemm_sm90";
    }

    @Override
    public Map<String, Integer> definitions() {
      return Map.of(
          "WARPGROUPS", warpgroups,
          "BLOCKS", blocks,
          "TILE_TOKENS", tokens,
          "STAGES", stages,
          "CLUSTER_OUT", clusterOut,
          "CLUSTER_TOKENS", clusterTokens,
          "STORE_TOKENS", storeTokens,
          "STORE_BUFFERS", storeBuffers,
          "RESIDENTS", residents,
          "HELD", held);
    }

    /** Outputs of one block's tile. */
    int out() {
      return warpgroups * blocks * 64;
    }

    /** Tokens of the box that loads x; 64 inputs wide, 128-byte swizzle. */
    int xBoxTokens() {
      return tokens / clusterOut;
    }

    /** Tokens of the box that stores y and loads the residual; 64 wide, 128-byte swizzle. */
    int yBoxTokens() {
      return storeTokens;
    }

    @Override
    public int threads() {
      return (warpgroups + 1) * 128;
    }

    @Override
    public int sharedBytes(Epilogue epilogue) {
      int weight = held > 0 ? 0 : out() / 64 * SparseGemmLayout.BLOCK_BYTES;
      int stage = tokens * 128 + weight;
      int store = storeTokens * 128 * storeBuffers * warpgroups;
      int norms = epilogue.hasNorm() ? 2 * tokens * 8 : 0;
      return stages * stage + store + 512 + norms;
    }

    int clusterBlocks() {
      return clusterOut * clusterTokens;
    }

    private long tiles(long tokenCount, int outCount) {
      return Math.ceilDiv(tokenCount, (long) tokens * clusterTokens) * outTiles(outCount);
    }

    private int outTiles(int outCount) {
      return Math.ceilDiv(outCount, out() * clusterOut);
    }

    /**
     * How many clusters to launch. Those that hold a weight have the same outputs in all their
     * tiles, which lie so many tiles apart.
     *
     * @param fitting clusters that fit the GPU at once
     * @return 0 where this tile cannot do the product
     */
    long clusters(long tokenCount, int outCount, long fitting) {
      long clusters = Math.min(tiles(tokenCount, outCount), fitting);
      return held > 0 ? clusters / outTiles(outCount) * outTiles(outCount) : clusters;
    }
  }

  /**
   * Ampere, Ada and later: {@code mma.sp} by {@code warpsOut * warpsTokens} warps. A grid of {@code
   * tiles} blocks.
   *
   * @param out outputs of a tile, a multiple of {@code 64} and of {@code 16 * warpsOut}
   * @param tokens tokens of a tile, a multiple of {@code 16 * warpsTokens}
   * @param warpsOut warps along out
   * @param warpsTokens warps along the tokens
   * @param stages tiles in flight from device memory, at least 2
   */
  record Sm80(int out, int tokens, int warpsOut, int warpsTokens, int stages)
      implements SparseGemmTile {
    @Override
    public String entry() {
      return "sparse_gemm_sm80";
    }

    @Override
    public Map<String, Integer> definitions() {
      return Map.of(
          "TILE_OUT", out,
          "TILE_TOKENS", tokens,
          "WARPS_OUT", warpsOut,
          "WARPS_TOKENS", warpsTokens,
          "STAGES", stages);
    }

    @Override
    public int threads() {
      return warpsOut * warpsTokens * 32;
    }

    @Override
    public int sharedBytes(Epilogue epilogue) {
      int stage = tokens * 128 + out / 64 * SparseGemmLayout.BLOCK_BYTES;
      return Math.max(stages * stage, tokens * (out + 8) * 2);
    }

    long tiles(long tokenCount, int outCount) {
      return Math.ceilDiv(tokenCount, (long) tokens) * Math.ceilDiv(outCount, out);
    }
  }

  /**
   * The tiles worth measuring on Hopper.
   *
   * @param kTiles inputs in blocks of 64
   */
  static List<Sm90> hopperCandidates(long tokens, int kTiles) {
    List<Sm90> candidates = new ArrayList<>();
    if (tokens > 1024) {
      candidates.add(new Sm90(2, 2, 192, 4, 1, 1, 64, 3, 1, 0));
      candidates.add(new Sm90(2, 2, 192, 4, 1, 2, 64, 3, 1, 0));
      candidates.add(new Sm90(3, 1, 192, 4, 1, 2, 64, 3, 1, 0));
      candidates.add(new Sm90(3, 1, 192, 4, 1, 1, 64, 3, 1, 0));
      if (kTiles <= MOST_HELD) {
        candidates.add(new Sm90(2, 1, 192, 7, 1, 1, 64, 3, 1, kTiles));
      }
      if (tokens <= 16384) {
        candidates.add(new Sm90(3, 1, 96, 6, 1, 1, 48, 2, 1, 0));
        candidates.add(new Sm90(2, 1, 96, 8, 1, 1, 48, 2, 1, 0));
        candidates.add(new Sm90(2, 1, 96, 4, 1, 1, 48, 2, 2, 0));
      }
      return candidates;
    }
    return List.of(
        new Sm90(3, 1, 192, 4, 1, 1, 64, 3, 1, 0),
        new Sm90(3, 1, 96, 6, 1, 1, 48, 2, 1, 0),
        new Sm90(2, 1, 96, 8, 1, 1, 48, 2, 1, 0),
        new Sm90(1, 1, 96, 6, 1, 1, 48, 2, 2, 0),
        new Sm90(1, 1, 64, 6, 1, 1, 64, 1, 2, 0));
  }

  /** The tiles worth measuring on Ampere and Ada. */
  static List<Sm80> ampereCandidates() {
    return List.of(
        new Sm80(128, 128, 2, 2, 3),
        new Sm80(256, 128, 4, 2, 3),
        new Sm80(256, 64, 4, 2, 3),
        new Sm80(128, 64, 2, 2, 4),
        new Sm80(64, 64, 2, 2, 4));
  }
}
