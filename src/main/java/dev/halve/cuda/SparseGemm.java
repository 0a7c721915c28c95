package dev.halve.cuda;

import dev.halve.cuda.KernelLaunch.Kernel;
import dev.halve.cuda.SparseGemmTile.Epilogue;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Collectors;

/**
 * 2:4 products, {@code y = epilogue(x · Wᵀ)}: on Hopper {@code sparse_gemm_sm90.cu}, elsewhere
 * {@code sparse_gemm_sm80.cu}, by the tile that was fastest when the candidates were timed on this
 * GPU at about this size.
 */
final class SparseGemm {
  private final CudaContext context;
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final Measured measured;
  private final boolean bfloat16;
  private final Map<Question, SparseGemmTile> choices = new HashMap<>();

  private record Question(int out, int in, int tokens, Epilogue epilogue) {}

  /**
   * One product. Addresses and pitches are multiples of 16 bytes.
   *
   * @param xPitch elements from one row of x to the next
   * @param bias fp32 {@code [out]}
   * @param residual {@code [tokens, out]} with rows as y's; 0 where there is none
   * @param tokenCount address of an I32, how many of the tokens are wanted: on Hopper tiles past
   *     them are left out; 0 where all are
   * @param norm what the epilogues with a norm take beside; null in the others
   */
  record Operands(
      long x,
      int xPitch,
      CudaPackedWeight weight,
      long bias,
      long residual,
      long y,
      int yPitch,
      int tokens,
      long tokenCount,
      Epilogue epilogue,
      FoldedNorm norm) {}

  /**
   * A LayerNorm inside a product.
   *
   * @param slope address of fp32 {@code [out]}: the row sums of W with gamma in it, or gamma
   * @param norms address of what {@link #normsBytes} says, of the matrix to be normalised
   * @param yMoments address of what {@link #momentsBytes} says, to be written; 0 where the epilogue
   *     writes none
   */
  record FoldedNorm(long slope, long norms, long yMoments) {}

  /** A scale and a shift for every token, with room for what a cluster reads past the last. */
  static long normsBytes(long tokens) {
    return 8 * (tokens + 512);
  }

  /** The mean and the sum of squares around it of each 64 columns of every row. */
  static long momentsBytes(long tokens, int columns) {
    return 8 * tokens * Math.ceilDiv(columns, 64);
  }

  SparseGemm(
      CudaContext context,
      Kernels kernels,
      KernelLaunch launch,
      Measured measured,
      boolean bfloat16) {
    this.context = context;
    this.kernels = kernels;
    this.launch = launch;
    this.measured = measured;
    this.bfloat16 = bfloat16;
  }

  /** Queues a product; the first of its size measures the tiles. */
  void multiply(Operands operands, boolean overlap) {
    SparseGemmLayout layout = operands.weight.layout();
    Question question =
        new Question(
            layout.out(), layout.in(), TokenBuckets.roundUp(operands.tokens), operands.epilogue);
    SparseGemmTile tile = choices.get(question);
    if (tile == null) {
      tile = choose(question, operands);
      if (!context.rehearsing()) {
        choices.put(question, tile);
      }
    }
    multiply(operands, tile, overlap);
  }

  /** The tile chosen for a product, for reports; null before it was run. */
  SparseGemmTile tile(int out, int in, int tokens, Epilogue epilogue) {
    return choices.get(new Question(out, in, TokenBuckets.roundUp(tokens), epilogue));
  }

  /** The tiles worth timing for a product. */
  private List<? extends SparseGemmTile> candidates(Operands operands) {
    SparseGemmLayout layout = operands.weight.layout();
    GpuProperties gpu = context.properties();
    List<? extends SparseGemmTile> all =
        gpu.isHopper()
            ? SparseGemmTile.hopperCandidates(operands.tokens, layout.kTiles()).stream()
                .filter(
                    tile -> tile.clusters(operands.tokens, layout.out(), gpu.multiprocessors()) > 0)
                .toList()
            : SparseGemmTile.ampereCandidates();
    return all.stream()
        .filter(tile -> tile.sharedBytes(operands.epilogue) <= gpu.sharedBytes())
        .toList();
  }

  private SparseGemmTile choose(Question question, Operands operands) {
    List<? extends SparseGemmTile> tiles = candidates(operands);
    String[] text = {
      "sparse",
      bfloat16 ? "bf16" : "fp16",
      question.toString(),
      tiles.toString(),
      kernels.sourceHash(tiles.getFirst().entry() + ".cu")
    };
    Map<String, SparseGemmTile> byName =
        tiles.stream().collect(Collectors.toMap(SparseGemmTile::toString, tile -> tile));
    String choice =
        measured
            .choice(text)
            .map(bytes -> new String(bytes, StandardCharsets.UTF_8))
            .filter(byName::containsKey)
            .orElse(null);
    if (choice != null) {
      return byName.get(choice);
    }
    // With a residual that is y itself every run adds to it: choose on scratch memory instead.
    long scratch = context.allocate(2L * operands.tokens * operands.yPitch);
    try {
      Operands aside =
          new Operands(
              operands.x,
              operands.xPitch,
              operands.weight,
              operands.bias,
              operands.residual == 0 ? 0 : scratch,
              scratch,
              operands.yPitch,
              operands.tokens,
              0,
              operands.epilogue,
              operands.norm);
      List<Measured.Candidate> candidates = new ArrayList<>();
      tiles.forEach(tile -> candidates.add(candidate(tile, aside)));
      byte[] best = measured.measure(candidates, text).orElseThrow();
      return byName.get(new String(best, StandardCharsets.UTF_8));
    } finally {
      context.free(scratch);
    }
  }

  private Measured.Candidate candidate(SparseGemmTile tile, Operands operands) {
    return new Measured.Candidate() {
      @Override
      public byte[] name() {
        return tile.toString().getBytes(StandardCharsets.UTF_8);
      }

      @Override
      public boolean run() {
        multiply(operands, tile, false);
        return true;
      }
    };
  }

  /** Queues a product by one tile. */
  void multiply(Operands operands, SparseGemmTile tile, boolean overlap) {
    Kernel kernel =
        kernels.get(
            tile.entry() + ".cu",
            tile.entry(),
            tile.definitions(operands.epilogue),
            tile.threads(),
            tile.sharedBytes(operands.epilogue));
    switch (tile) {
      case SparseGemmTile.Sm90 hopper -> launchSm90(kernel, hopper, operands, overlap);
      case SparseGemmTile.Sm80 ampere -> launchSm80(kernel, ampere, operands, overlap);
    }
  }

  private void launchSm90(
      Kernel kernel, SparseGemmTile.Sm90 tile, Operands operands, boolean overlap) {
    SparseGemmLayout layout = operands.weight.layout();
    int fitting = Math.max(1, kernel.blocks() / tile.clusterBlocks());
    long blocks = tile.clusterBlocks() * tile.clusters(operands.tokens, layout.out(), fitting);
    FoldedNorm norm = operands.norm == null ? new FoldedNorm(0, 0, 0) : operands.norm;
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment y = yMap(arena, operands, operands.y, tile);
      MemorySegment residual =
          operands.residual == 0 ? y : yMap(arena, operands, operands.residual, tile);
      launch
          .of(kernel, blocks)
          .cluster(tile.clusterBlocks())
          .overlapping(overlap)
          .with(
              map(
                  arena,
                  operands.x,
                  layout.in(),
                  operands.tokens,
                  operands.xPitch,
                  tile.xBoxTokens()))
          .with(y)
          .with(residual)
          .with(operands.weight.address())
          .with(operands.bias)
          .with(operands.tokens)
          .with(layout.out())
          .with(layout.kTiles())
          .with(norm.slope)
          .with(norm.norms)
          .with(norm.yMoments)
          .with(operands.tokenCount)
          .launch();
    }
  }

  private MemorySegment yMap(
      Arena arena, Operands operands, long address, SparseGemmTile.Sm90 tile) {
    return map(
        arena,
        address,
        operands.weight.layout().out(),
        operands.tokens,
        operands.yPitch,
        tile.yBoxTokens());
  }

  private MemorySegment map(
      Arena arena, long address, int width, int tokens, int pitch, int boxTokens) {
    return CudaDriver.encodeTensorMap(
        arena,
        bfloat16,
        address,
        width,
        tokens,
        2L * pitch,
        64,
        boxTokens,
        CudaDriver.Swizzle.BYTES_128,
        CudaDriver.Promotion.BYTES_256);
  }

  private void launchSm80(
      Kernel kernel, SparseGemmTile.Sm80 tile, Operands operands, boolean overlap) {
    SparseGemmLayout layout = operands.weight.layout();
    launch
        .of(kernel, tile.tiles(operands.tokens, layout.out()))
        .overlapping(overlap)
        .with(operands.y)
        .with(operands.x)
        .with(operands.weight.address())
        .with(operands.bias)
        .with(operands.residual)
        .with(operands.tokens)
        .with(layout.out())
        .with(layout.in())
        .with(operands.xPitch)
        .with(operands.yPitch)
        .launch();
  }
}
