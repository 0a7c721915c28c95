package dev.halve.cuda;

import dev.halve.core.HalveException;
import dev.halve.cuda.KernelLaunch.Kernel;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * Dense products. With cuBLASLt, by the algorithm that was fastest when its candidates were timed
 * on this GPU at about this size; without, by {@code dense_gemm.cu}, slower.
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
  private final LinkedHashMap<CublasLt.Extents, CublasLt.Product> prepared =
      new LinkedHashMap<>(16, 0.75f, true);

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
    CublasLt.Product product = prepared.get(extents);
    if (product == null) {
      product = prepare(extents, operands);
      prepared.put(extents, product);
      if (prepared.size() > KEPT_PRODUCTS) {
        prepared.pollFirstEntry().getValue().close();
      }
    }
    if (queue(product, operands) != 0) {
      // The bucket's choice does not suit every size in it.
      product.use(product.algorithms(1).getFirst());
      CublasLt.check("cublasLtMatmul " + extents, queue(product, operands));
    }
  }

  private int queue(CublasLt.Product product, Operands operands) {
    return product.launch(
        operands.weight,
        operands.x,
        operands.bias,
        operands.residual,
        operands.y,
        workspace,
        context.stream());
  }

  private CublasLt.Product prepare(CublasLt.Extents extents, Operands operands) {
    CublasLt.Product product = cublas.new Product(extents);
    try {
      choose(product, extents, operands);
      return product;
    } catch (Throwable failed) {
      product.close();
      throw failed;
    }
  }

  private void choose(CublasLt.Product product, CublasLt.Extents extents, Operands operands) {
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
      product.use(choice);
      return;
    }
    List<byte[]> algorithms = product.algorithms(CANDIDATES);
    if (algorithms.isEmpty()) {
      throw new HalveException(
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
      List<Candidate> candidates =
          algorithms.stream().map(each -> new Candidate(each, product, aside)).toList();
      product.use(measured.measure(candidates, question).orElse(algorithms.getFirst()));
    } finally {
      context.free(scratch);
    }
  }

  /** One algorithm, under its own bytes as name. */
  private final class Candidate implements Measured.Candidate {
    private final byte[] algorithm;
    private final CublasLt.Product product;
    private final Operands operands;

    Candidate(byte[] algorithm, CublasLt.Product product, Operands operands) {
      this.algorithm = algorithm;
      this.product = product;
      this.operands = operands;
    }

    @Override
    public byte[] name() {
      return algorithm;
    }

    @Override
    public boolean run() {
      product.use(algorithm);
      return queue(product, operands) == 0;
    }
  }

  private void standIn(CublasLt.Extents extents, Operands operands, boolean gelu, boolean overlap) {
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
    prepared.values().forEach(CublasLt.Product::close);
    prepared.clear();
    if (cublas != null) {
      cublas.close();
      context.free(workspace);
    }
  }
}
