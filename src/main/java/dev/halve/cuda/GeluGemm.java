package dev.halve.cuda;

import dev.halve.cuda.KernelLaunch.Kernel;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.stream.Stream;

/**
 * The dense product before a MLP's GELU and, in training, the one that goes back through it, on
 * Hopper with the GELU in their epilogue ({@code gelu_gemm_sm90.cu}) where that is faster than a
 * product and a pass; which is, and by which tile, is timed once for each size.
 */
final class GeluGemm {
  private final CudaContext context;
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final Measured measured;
  private final CudaTraining training;
  private final boolean bfloat16;
  private final Map<Question, Choice> choices = new HashMap<>();

  GeluGemm(
      CudaContext context,
      Kernels kernels,
      KernelLaunch launch,
      Measured measured,
      CudaTraining training,
      boolean bfloat16) {
    this.context = context;
    this.kernels = kernels;
    this.launch = launch;
    this.measured = measured;
    this.training = training;
    this.bfloat16 = bfloat16;
  }

  /**
   * One product, {@code y = gelu(inner)} of {@code inner = x · weightᵀ + bias}, or backwards {@code
   * y = (x · weight) * gelu'(inner)}.
   *
   * @param x address of {@code [tokens, in]}
   * @param weight address of {@code [out, in]}, or backwards {@code [in, out]}
   * @param inner address of {@code [tokens, out]}; 0 forwards where nobody asks for it
   * @param y address of {@code [tokens, out]}
   * @param bias address of {@code [out]}; 0 backwards
   * @param dBias address of fp32 {@code [out]}, to which backwards the sums of y over the tokens
   *     are added; 0 forwards
   */
  record Operands(
      long x,
      long weight,
      long inner,
      long y,
      long bias,
      long dBias,
      int tokens,
      int in,
      int out,
      boolean backward) {
    private boolean hasInner() {
      return inner != 0;
    }

    private Operands withBiasGradient(long address) {
      return new Operands(x, weight, inner, y, bias, address, tokens, in, out, backward);
    }
  }

  /** The same by a product and a pass. */
  interface Separately {
    void run(Operands operands);
  }

  private record Question(int tokens, int in, int out, boolean backward, boolean inner) {}

  /**
   * @param tile null for a product and a pass
   */
  private record Choice(Tile tile) {
    String text() {
      return tile == null ? "separately" : tile.toString();
    }
  }

  private static final Choice SEPARATELY = new Choice(null);

  /** Tokens of a tile, of 256 outputs by a cluster of two blocks, and tiles in flight. */
  record Tile(int tokens, int stages) {
    private static final int CLUSTER = 2;
    private static final int OUT = 256;
    private static final int STORE_TOKENS = 64;
    private static final int STORE_BUFFERS = 3;
    private static final int THREADS = 384;

    /** The kernel's compile-time constants. */
    Map<String, String> definitions(boolean backward, boolean inner) {
      return Map.of(
          "BACKWARD", CudaTraining.flag(backward),
          "INNER", CudaTraining.flag(inner),
          "TILE_TOKENS", String.valueOf(tokens),
          "STAGES", String.valueOf(stages),
          "STORE_TOKENS", String.valueOf(STORE_TOKENS),
          "STORE_BUFFERS", String.valueOf(STORE_BUFFERS));
    }

    private int sharedBytes() {
      int stage = (tokens + OUT / CLUSTER) * 128;
      return stages * stage + 2 * STORE_BUFFERS * STORE_TOKENS * 128 + 512;
    }
  }

  /** The tiles worth timing for so many tokens. */
  static List<Tile> tiles(int tokens) {
    return List.of(tokens > 8192 ? new Tile(192, 4) : new Tile(128, 5));
  }

  /** Queues the product, in the way that is fastest. */
  void run(Operands operands, Separately separately) {
    run(operands, separately, choice(operands, separately));
  }

  private void run(Operands operands, Separately separately, Choice choice) {
    if (choice.tile == null) {
      separately.run(operands);
    } else {
      run(operands, choice.tile);
    }
  }

  /** Times the ways, if this is the first product of its size; nothing else may be under way. */
  void choose(Operands operands, Separately separately) {
    choice(operands, separately);
  }

  private Choice choice(Operands operands, Separately separately) {
    if (!context.properties().isHopper() || operands.in % 8 != 0 || operands.out % 8 != 0) {
      return SEPARATELY;
    }
    Question question =
        new Question(
            TokenBuckets.roundUp(operands.tokens),
            operands.in,
            operands.out,
            operands.backward,
            operands.hasInner());
    Choice known = choices.get(question);
    if (known == null) {
      known = measure(question, operands, separately);
      if (!context.rehearsing()) {
        choices.put(question, known);
      }
    }
    return known;
  }

  private Choice measure(Question question, Operands operands, Separately separately) {
    List<Choice> candidates =
        Stream.concat(Stream.of(SEPARATELY), tiles(operands.tokens).stream().map(Choice::new))
            .toList();
    String[] text = {
      "gelu",
      bfloat16 ? "bf16" : "fp16",
      question.toString(),
      candidates.toString(),
      kernels.sourceHash("gelu_gemm_sm90.cu")
    };
    byte[] name = measured.choice(text).orElse(null);
    if (name == null) {
      // Each run would add to the bias's gradient.
      long aside = operands.backward ? context.allocate(4L * operands.out) : 0;
      try {
        Operands timed = operands.withBiasGradient(aside);
        List<Measured.Candidate> runs = new ArrayList<>();
        candidates.forEach(each -> runs.add(candidate(each, timed, separately)));
        training.join();
        name = measured.measure(runs, text).orElseThrow();
      } finally {
        if (aside != 0) {
          context.free(aside);
        }
      }
    }
    String chosen = new String(name, StandardCharsets.UTF_8);
    return candidates.stream().filter(each -> each.text().equals(chosen)).findFirst().orElseThrow();
  }

  private Measured.Candidate candidate(Choice choice, Operands operands, Separately separately) {
    return new Measured.Candidate() {
      @Override
      public byte[] name() {
        return choice.text().getBytes(StandardCharsets.UTF_8);
      }

      @Override
      public boolean run() {
        GeluGemm.this.run(operands, separately, choice);
        training.sums().launch(context.stream());
        return true;
      }
    };
  }

  /** Queues the product by one tile. */
  void run(Operands o, Tile tile) {
    Kernel kernel =
        kernels.get(
            "gelu_gemm_sm90.cu",
            "gelu_gemm_sm90",
            tile.definitions(o.backward, o.hasInner()),
            Tile.THREADS,
            tile.sharedBytes());
    int parts = Math.ceilDiv(o.tokens, tile.tokens);
    int tiles = parts * Math.ceilDiv(o.out, Tile.OUT);
    int clusters = Math.min(kernel.blocks() / Tile.CLUSTER, tiles);
    long partial = o.backward ? training.sums().partial(parts, o.out) : 0;
    try (Arena arena = Arena.ofConfined()) {
      launch
          .of(kernel, (long) Tile.CLUSTER * clusters)
          .cluster(Tile.CLUSTER)
          .overlapping(!o.backward)
          .with(map(arena, o.x, o.in, o.tokens, tile.tokens / Tile.CLUSTER))
          .with(map(arena, o.weight, o.backward ? o.out : o.in, o.backward ? o.in : o.out, 64))
          .with(map(arena, o.hasInner() ? o.inner : o.y, o.out, o.tokens, Tile.STORE_TOKENS))
          .with(map(arena, o.y, o.out, o.tokens, Tile.STORE_TOKENS))
          .with(o.bias)
          .with(partial)
          .with(o.tokens)
          .with(o.out)
          .with(Math.ceilDiv(o.in, 64))
          .launch();
    }
    if (o.backward) {
      training.sums().addPartials(partial, o.out, o.out, parts, o.dBias);
    }
  }

  private MemorySegment map(Arena arena, long address, int width, int rows, int boxRows) {
    return CudaDriver.encodeTensorMap(
        arena,
        bfloat16,
        address,
        width,
        rows,
        2L * width,
        64,
        boxRows,
        CudaDriver.Swizzle.BYTES_128,
        CudaDriver.Promotion.BYTES_256);
  }
}
