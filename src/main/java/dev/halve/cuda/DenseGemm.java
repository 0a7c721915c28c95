package dev.halve.cuda;

import dev.halve.cuda.KernelLaunch.Kernel;
import java.util.Map;

/**
 * The products of forward passes with dense weights: through cuBLASLt, or without it by {@code
 * dense_gemm.cu}, slower.
 */
final class DenseGemm implements AutoCloseable {
  private final CudaContext context;
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final CublasProducts cublas;
  private final long workspace;

  /**
   * A product of fixed extents: what to compute, without the operands.
   *
   * @param pitch elements from one row of y to the next
   */
  record Extents(int tokens, int out, int in, int pitch, boolean residual) {}

  /** The addresses of one product's operands; residual is 0 where there is none. */
  record Operands(long x, long weight, long bias, long residual, long y) {}

  /**
   * @param cublas null to do without
   */
  DenseGemm(CudaContext context, Kernels kernels, KernelLaunch launch, CublasProducts cublas) {
    this.context = context;
    this.kernels = kernels;
    this.launch = launch;
    this.cublas = cublas;
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
  void multiply(Extents extents, Operands operands, boolean gelu, boolean overlap) {
    if (cublas == null) {
      standIn(extents, operands, gelu, overlap);
      return;
    }
    cublas.multiply(
        CublasLt.Form.forward(
            extents.tokens, extents.out, extents.in, extents.pitch, extents.residual),
        TokenBuckets.roundUp(extents.tokens),
        new CublasProducts.Operands(
            operands.weight, operands.x, operands.bias, operands.residual, operands.y),
        workspace,
        context.stream());
  }

  private void standIn(Extents extents, Operands operands, boolean gelu, boolean overlap) {
    String epilogue = gelu ? "1" : operands.residual != 0 ? "2" : "0";
    Kernel kernel = kernels.get("dense_gemm.cu", "dense_gemm", Map.of("EPILOGUE", epilogue), 256);
    launch
        .of(kernel, Math.ceilDiv(extents.out(), 128), Math.ceilDiv(extents.tokens(), 128), 1)
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
    if (cublas != null) {
      context.free(workspace);
    }
  }
}
