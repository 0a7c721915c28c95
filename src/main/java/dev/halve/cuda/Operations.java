package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;

import dev.halve.cuda.CudaDriver.Promotion;
import dev.halve.cuda.CudaDriver.Swizzle;
import dev.halve.cuda.KernelLaunch.Kernel;
import dev.halve.engine.DeviceBatch;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * The kernels beside the products. Arguments are device addresses; {@code 0} stands for an operand
 * that is not there. What each computes is said in its source.
 */
final class Operations {
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final GpuProperties gpu;
  private boolean overlap;

  Operations(Kernels kernels, KernelLaunch launch, GpuProperties gpu) {
    this.kernels = kernels;
    this.launch = launch;
    this.gpu = gpu;
  }

  /**
   * Whether the kernels queued from now on may start before their predecessor has ended. Only where
   * every weight was in place long before: kernels read weights before they wait.
   */
  void overlap(boolean allowed) {
    overlap = allowed && gpu.major() >= 9;
  }

  boolean overlaps() {
    return overlap;
  }

  void embeddings(long out, Ids ids, long word, long position, long type, int tokens, int hidden) {
    Kernel kernel = hiddenKernel("layer_norm.cu", "embeddings", hidden);
    perToken(kernel, tokens)
        .with(out)
        .with(ids.tokenIds)
        .with(ids.positions)
        .with(ids.typeIds)
        .with(word)
        .with(position)
        .with(type)
        .with(tokens)
        .launch();
  }

  /** Addresses of I32 {@code [tokens]} each. */
  record Ids(long tokenIds, long positions, long typeIds) {}

  /** Addresses of {@code [hidden]} each. */
  record Norm(long weight, long bias, float epsilon) {}

  void embeddingsLayerNorm(
      long out, Ids ids, long word, long position, long type, Norm norm, int tokens, int hidden) {
    Kernel kernel = hiddenKernel("layer_norm.cu", "embeddings_layer_norm", hidden);
    afterCopy(kernel, tokens)
        .with(out)
        .with(ids.tokenIds)
        .with(ids.positions)
        .with(ids.typeIds)
        .with(word)
        .with(position)
        .with(type)
        .with(norm.weight)
        .with(norm.bias)
        .with(norm.epsilon)
        .with(tokens)
        .launch();
  }

  /** The sums alone, and as {@code norms} a scale and a shift for each token. */
  void embeddingsNorms(
      long out,
      long norms,
      Ids ids,
      long word,
      long position,
      long type,
      float epsilon,
      int tokens,
      int hidden) {
    Kernel kernel = hiddenKernel("layer_norm.cu", "embeddings_norms", hidden);
    afterCopy(kernel, tokens)
        .with(out)
        .with(norms)
        .with(ids.tokenIds)
        .with(ids.positions)
        .with(ids.typeIds)
        .with(word)
        .with(position)
        .with(type)
        .with(epsilon)
        .with(tokens)
        .launch();
  }

  /**
   * A scale and a shift for each token, from the {@link SparseGemm#momentsBytes} of its columns.
   */
  void tokenNorms(long norms, long moments, float epsilon, int tokens, int hidden) {
    Kernel kernel = hiddenKernel("token_norms.cu", "token_norms", hidden);
    launch
        .of(kernel, Math.ceilDiv(tokens, 128))
        .overlapping(overlap)
        .with(norms)
        .with(moments)
        .with(epsilon)
        .with(tokens)
        .launch();
  }

  void layerNorm(long out, long x, long residual, Norm norm, int tokens, int hidden) {
    Kernel kernel =
        hiddenKernel("layer_norm.cu", residual == 0 ? "layer_norm" : "residual_layer_norm", hidden);
    perToken(kernel, tokens).with(out).with(x);
    if (residual != 0) {
      launch.with(residual);
    }
    launch.with(norm.weight).with(norm.bias).with(norm.epsilon).with(tokens).launch();
  }

  /** The head sizes that {@link #attention} has kernels for. */
  static boolean hasAttention(int headSize) {
    return headSize == 32 || headSize == 64;
  }

  /**
   * Rows of a batch, for attention.
   *
   * @param rowOffsets address of I32 {@code [count + 1]}
   * @param longest at least the longest row's tokens
   * @param tokens rows of the matrix that holds queries, keys and values
   */
  record Rows(long rowOffsets, int count, int longest, int tokens) {
    /** What a grid's second and third extents can be. */
    private static final int MOST_BLOCKS = 65_535;

    static Rows of(DeviceBatch batch) {
      return new Rows(
          address(batch.rowOffsets()), batch.rows(), batch.longestRow(), batch.tokens());
    }

    /** The same rows, so many at a time that one of those extents may count them. */
    List<Rows> launches() {
      List<Rows> launches = new ArrayList<>();
      for (int first = 0; first < count; first += MOST_BLOCKS) {
        int some = Math.min(MOST_BLOCKS, count - first);
        launches.add(new Rows(rowOffsets + 4L * first, some, longest, tokens));
      }
      return launches;
    }
  }

  /**
   * What training asks of attention beside its output.
   *
   * @param logSumExp address of F32 {@code [tokens, heads]}
   * @param site a {@code DropoutSite} of dropout.cuh
   */
  record Kept(long logSumExp, MemorySegment site, boolean dropout) {}

  /** In inference, by the kernel for this GPU. */
  void attention(long out, long qkv, Rows rows, int heads, int headSize) {
    if (gpu.isHopper()) {
      attentionSm90(out, qkv, rows, heads, headSize, null);
    } else {
      attentionSm80(out, qkv, rows, heads, headSize, null);
    }
  }

  /**
   * @param kept null in inference
   */
  void attentionSm80(long out, long qkv, Rows rows, int heads, int headSize, Kept kept) {
    int queries = 128;
    Kernel kernel =
        kernels.get("attention.cu", "attention", attentionDefinitions(headSize, kept), 128);
    for (Rows some : rows.launches()) {
      launch
          .of(kernel, Math.ceilDiv(some.longest, queries), heads, some.count)
          .overlapping(overlap)
          .with(out)
          .with(qkv)
          .with(some.rowOffsets)
          .with(heads * headSize)
          .with(scaleLog2(headSize));
      launchKeeping(kept);
    }
  }

  /**
   * @param kept null in inference
   */
  void attentionSm90(long out, long qkv, Rows rows, int heads, int headSize, Kept kept) {
    int warpgroups = 4;
    int queries = 64;
    int keys = 64;
    int stages = 10;
    int barriers = 2048;
    int sharedBytes = 2 * (warpgroups * queries + stages * keys) * headSize * 2 + barriers;
    Kernel kernel =
        kernels.get(
            "attention_sm90.cu",
            "attention_sm90",
            attentionDefinitions(headSize, kept),
            128 * (warpgroups + 1),
            sharedBytes);
    long blocks = (long) rows.count * heads * Math.ceilDiv(rows.longest, queries);
    try (Arena arena = Arena.ofConfined()) {
      launch
          .of(kernel, Math.min(blocks, kernel.blocks()))
          .overlapping(overlap || kept != null)
          .with(out)
          .with(headMap(arena, qkv, 3 * heads * headSize, rows.tokens, headSize))
          .with(rows.rowOffsets)
          .with(rows.count)
          .with(heads)
          .with(scaleLog2(headSize));
      launchKeeping(kept);
    }
  }

  private static Map<String, String> attentionDefinitions(int headSize, Kept kept) {
    String head = String.valueOf(headSize);
    return kept == null
        ? Map.of("HEAD", head)
        : Map.of("HEAD", head, "TRAINING", "1", "DROPOUT", CudaTraining.flag(kept.dropout));
  }

  private void launchKeeping(Kept kept) {
    if (kept != null) {
      launch.with(kept.logSumExp).with(kept.site);
    }
    launch.launch();
  }

  /** A matrix {@code [tokens, width]} of which a copy takes a head's columns of 64 tokens. */
  static MemorySegment headMap(Arena arena, long matrix, int width, int tokens, int headSize) {
    return CudaDriver.encodeTensorMap(
        arena,
        false,
        matrix,
        width,
        tokens,
        2L * width,
        headSize,
        64,
        headSize == 64 ? Swizzle.BYTES_128 : Swizzle.BYTES_64,
        Promotion.BYTES_128);
  }

  /** The softmax's scale, for exponentials of base 2. */
  private static float scaleLog2(int headSize) {
    return (float) (1 / Math.sqrt(headSize) / Math.log(2));
  }

  /** The most outputs that {@link #head} keeps in registers. */
  static final int HEAD_OUTPUTS = 16;

  /**
   * A product with few outputs.
   *
   * @param elementLogits whether logits are 16-bit elements, else fp32
   * @param pitch elements from one row of logits to the next
   */
  void head(
      long logits,
      boolean elementLogits,
      int pitch,
      long x,
      long weight,
      long bias,
      int tokens,
      int hidden,
      int outputs) {
    perToken(headKernel("head", elementLogits, hidden, outputs), tokens)
        .with(logits)
        .with(pitch)
        .with(x)
        .with(weight)
        .with(bias)
        .with(tokens)
        .launch();
  }

  /** {@link #head} of the norm of x, logits fp32. */
  void normHead(
      long logits, long x, Norm norm, long weight, long bias, int tokens, int hidden, int outputs) {
    perToken(headKernel("norm_head", false, hidden, outputs), tokens)
        .with(logits)
        .with(outputs)
        .with(x)
        .with(norm.weight)
        .with(norm.bias)
        .with(norm.epsilon)
        .with(weight)
        .with(bias)
        .with(tokens)
        .launch();
  }

  private Kernel headKernel(String entry, boolean elementLogits, int hidden, int outputs) {
    return kernels.get(
        "head.cu",
        entry,
        Map.of(
            "HIDDEN", String.valueOf(hidden),
            "OUTPUTS", String.valueOf(outputs),
            "ELEMENT_LOGITS", CudaTraining.flag(elementLogits)),
        128);
  }

  void gelu(long out, long x, long count) {
    elementwise("gelu", count / 8).with(out).with(x).with(count).launch();
  }

  void fromFloat(long out, long x, long count) {
    elementwise("from_float", count / 4).with(out).with(x).with(count).launch();
  }

  void toFloat(long out, long x, long count) {
    elementwise("to_float32", count / 4).with(out).with(x).with(count).launch();
  }

  /** Rows of {@code width} elements, widened to {@code outWidth} with zeros. */
  void copyRows(long out, int outPitch, int outWidth, long x, int xPitch, int width, long rows) {
    elementwise("copy_rows", rows * outWidth)
        .with(out)
        .with(outPitch)
        .with(outWidth)
        .with(x)
        .with(xPitch)
        .with(width)
        .with(rows)
        .launch();
  }

  private KernelLaunch elementwise(String entry, long threads) {
    Kernel kernel = kernels.get("elementwise.cu", entry, Map.of(), 256);
    long blocks = Math.clamp(Math.ceilDiv(threads, 256L), 1, kernel.blocks());
    return launch.of(kernel, blocks).overlapping(overlap);
  }

  private Kernel hiddenKernel(String source, String entry, int hidden) {
    return kernels.get(source, entry, Map.of("HIDDEN", String.valueOf(hidden)), 128);
  }

  private KernelLaunch perToken(Kernel kernel, int tokens) {
    return afterCopy(kernel, tokens).overlapping(overlap);
  }

  /** A programmatic launch would not wait for the copy. */
  private KernelLaunch afterCopy(Kernel kernel, int tokens) {
    int blocks = Math.min(kernel.blocks(), Math.ceilDiv(tokens, 4));
    return launch.of(kernel, blocks);
  }
}
