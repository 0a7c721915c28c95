package dev.halve.cuda;

import dev.halve.cuda.KernelLaunch.Kernel;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Dense products. With cuBLASLt, by the algorithm that was fastest when its candidates were timed on
 * this GPU at about this size; without, by {@code dense_gemm.cu}, slower.
 */
final class DenseGemm implements AutoCloseable {
  private static final int CANDIDATES = 16;
  private static final int KEPT_PRODUCTS = 1024;

  private final CudaContext context;
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final Measured measured;
  private final boolean bfloat16;
  private final CublasLt cublas;
  private final long workspace;
  private final Map<CublasLt.Extents, Prepared> prepared = new LinkedHashMap<>(16, 0.75f, true);

  private record Prepared(CublasLt.Product product, MemorySegment algorithm, Arena arena) {
    void close() {
      product.close();
      arena.close();
    }
  }

  /** The addresses of one product's operands; residual is 0 where there is none. */
  record Operands(long x, long weight, long bias, long residual, long y) {}

  /** With cuBLASLt where it is found. */
  DenseGemm(
      CudaContext context,
      Kernels kernels,
      KernelLaunch launch,
      Measured measured,
      boolean bfloat16,
      boolean useCublas) {
    this.context = context;
    this.kernels = kernels;
    this.launch = launch;
    this.measured = measured;
    this.bfloat16 = bfloat16;
    this.cublas = useCublas && CublasLt.present() ? new CublasLt(bfloat16) : null;
    this.workspace = cublas == null ? 0 : context.allocate(CublasLt.WORKSPACE_BYTES);
  }

  boolean usesCublas() {
    return cublas != null;
  }

  /**
   * Queues {@code y = x · weightᵀ + bias (+ residual)}.
   *
   * @param gelu applied by the stand-in only; the caller applies it where cuBLASLt is used, whose
   *     own is the tanh approximation
   */
  void multiply(CublasLt.Extents extents, Operands operands, boolean gelu, boolean overlap) {
    if (cublas == null) {
      standIn(extents, operands, gelu, overlap);
      return;
    }
    Prepared product = prepared.get(extents);
    if (product == null) {
      product = prepare(extents, operands);
      prepared.put(extents, product);
      if (prepared.size() > KEPT_PRODUCTS) {
        prepared.pollFirstEntry().getValue().close();
      }
    }
    CublasLt.check(
        "cublasLtMatmul " + extents, queue(product.product, product.algorithm, operands));
  }

  private int queue(CublasLt.Product product, MemorySegment algorithm, Operands operands) {
    return product.launch(
        algorithm,
        operands.weight,
        operands.x,
        operands.bias,
        operands.residual,
        operands.y,
        workspace,
        context.stream());
  }

  private Prepared prepare(CublasLt.Extents extents, Operands operands) {
    CublasLt.Product product = cublas.new Product(extents);
    Arena arena = Arena.ofShared();
    MemorySegment algorithm = arena.allocate(CublasLt.ALGORITHM_BYTES, 8);
    String[] question = {
      "dense",
      CublasLt.path(),
      bfloat16 ? "bf16" : "fp16",
      String.valueOf(TokenBuckets.roundUp(extents.tokens())),
      extents.out() + "x" + extents.in() + " pitch " + extents.pitch(),
      extents.residual() ? "residual" : "bias"
    };
    byte[] choice = measured.choice(question).orElse(null);
    if (choice != null) {
      copy(choice, algorithm);
      if (queue(product, algorithm, operands) == 0) {
        return new Prepared(product, algorithm, arena);
      }
    }
    List<byte[]> algorithms = product.algorithms(CANDIDATES);
    if (algorithms.isEmpty()) {
      product.close();
      arena.close();
      throw new dev.halve.core.HalveException(
          "cuBLASLt has no algorithm for the product " + extents + "; check its installation");
    }
    // With a residual that is y itself every run adds to it: choose on scratch memory instead.
    long scratch = context.allocate(2L * extents.tokens() * extents.pitch());
    try {
      Operands aside =
          new Operands(
              operands.x,
              operands.weight,
              operands.bias,
              operands.residual == 0 ? 0 : scratch,
              scratch);
      List<Measured.Candidate> candidates = new ArrayList<>();
      for (byte[] each : algorithms) {
        candidates.add(candidate(each, product, algorithm, aside));
      }
      copy(measured.measure(candidates, question).orElse(algorithms.getFirst()), algorithm);
    } finally {
      context.free(scratch);
    }
    return new Prepared(product, algorithm, arena);
  }

  private Measured.Candidate candidate(
      byte[] name, CublasLt.Product product, MemorySegment algorithm, Operands operands) {
    return new Measured.Candidate() {
      @Override
      public byte[] name() {
        return name;
      }

      @Override
      public boolean run() {
        copy(name, algorithm);
        return queue(product, algorithm, operands) == 0;
      }
    };
  }

  private static void copy(byte[] bytes, MemorySegment to) {
    MemorySegment.copy(bytes, 0, to, ValueLayout.JAVA_BYTE, 0, bytes.length);
  }

  private void standIn(
      CublasLt.Extents extents, Operands operands, boolean gelu, boolean overlap) {
    String epilogue = gelu ? "1" : operands.residual != 0 ? "2" : "0";
    Kernel kernel = kernels.get("dense_gemm.cu", "dense_gemm", Map.of("EPILOGUE", epilogue), 256);
    launch
        .of(
            kernel,
            Math.ceilDiv(extents.out(), 128),
            Math.ceilDiv(extents.tokens(), 128),
            1,
            256,
            0)
        .overlapping(overlap)
        .with(operands.y)
        .with(operands.x)
        .with(operands.weight)
        .with(operands.bias)
        .with(operands.residual)
        .with(extents.tokens())
        .with(extents.out())
        .with(extents.in())
        .with(extents.pitch())
        .launch();
  }

  @Override
  public void close() {
    prepared.values().forEach(Prepared::close);
    prepared.clear();
    if (cublas != null) {
      cublas.close();
      context.free(workspace);
    }
  }
}
