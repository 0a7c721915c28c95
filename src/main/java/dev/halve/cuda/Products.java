package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.cuda.SparseGemmTile.Epilogue;
import java.util.Arrays;
import java.util.Objects;
import java.util.stream.Collectors;

/**
 * Linear layers on the GPU, dense or 2:4, for any extents: rows that the copy engine cannot address
 * (not a multiple of 8 elements long) go through wider scratch rows.
 */
final class Products implements AutoCloseable {
  private static final int ALIGNED_ELEMENTS = 8;

  private final DenseGemm dense;
  private final SparseGemm sparse;
  private final Operations operations;
  private final Scratch xScratch;
  private final GeluGemm geluGemm;
  private final Scratch weightScratch;
  private final Scratch yScratch;

  Products(
      CudaContext context,
      Kernels kernels,
      KernelLaunch launch,
      Measured measured,
      Operations operations,
      DType dtype,
      CublasProducts cublas,
      GeluGemm geluGemm) {
    boolean bfloat16 = dtype == DType.BF16;
    this.dense = new DenseGemm(context, kernels, launch, cublas);
    this.sparse = new SparseGemm(context, kernels, launch, measured, bfloat16);
    this.operations = operations;
    this.geluGemm = geluGemm;
    this.xScratch = new Scratch(context);
    this.weightScratch = new Scratch(context);
    this.yScratch = new Scratch(context);
  }

  /** Whether dense products go through cuBLASLt. */
  boolean usesCublas() {
    return dense.usesCublas();
  }

  /** The tiles chosen for 2:4 products of these extents, for reports. */
  String tile(int out, int in, int tokens) {
    return Arrays.stream(Epilogue.values())
        .map(epilogue -> sparse.tile(out, in, tokens, epilogue))
        .filter(Objects::nonNull)
        .map(SparseGemmTile::toString)
        .collect(Collectors.joining(" "));
  }

  /**
   * Activations of one product.
   *
   * @param x address of {@code [tokens, in]}
   * @param tokenCount as in {@link SparseGemm.Operands}; dense products compute all tokens
   * @param residual address of {@code [tokens, out]} with rows as y's, may be y; 0 for none
   * @param y address of the first output, rows {@code yPitch} elements apart
   */
  record Activations(long x, int tokens, long tokenCount, long residual, long y, int yPitch) {
    Activations(long x, int tokens, long residual, long y, int yPitch) {
      this(x, tokens, 0, residual, y, yPitch);
    }
  }

  /**
   * {@code y = x · weightᵀ + bias}, then GELU or the residual.
   *
   * @param weight address of {@code [out, in]}
   * @param bias address of {@code [out]} in the compute type
   */
  void dense(Activations a, long weight, long bias, int out, int in, boolean gelu) {
    long x = a.x;
    long w = weight;
    int width = roundUp(in);
    if (width != in) {
      x = widen(xScratch, x, a.tokens, in, width);
      w = widen(weightScratch, w, out, in, width);
    }
    boolean direct =
        a.yPitch % ALIGNED_ELEMENTS == 0 && a.y % 16 == 0 && out % ALIGNED_ELEMENTS == 0;
    if (gelu && direct && a.yPitch == out && dense.usesCublas()) {
      geluGemm.run(
          new GeluGemm.Operands(x, w, 0, a.y, bias, 0, a.tokens, width, out, false),
          o -> multiplyDense(a, o.x(), o.weight(), o.bias(), out, o.in(), true));
      return;
    }
    if (direct || !dense.usesCublas()) {
      multiplyDense(a, x, w, bias, out, width, gelu);
      return;
    }
    // cuBLASLt needs outputs at multiples of 16 bytes; an odd width is one that few models have.
    int outWidth = roundUp(out);
    long y = yScratch.take(2L * a.tokens * outWidth);
    if (a.residual != 0) {
      operations.copyRows(y, outWidth, outWidth, a.residual, a.yPitch, out, a.tokens);
    }
    long scratchResidual = a.residual == 0 ? 0 : y;
    multiplyDense(
        new Activations(x, a.tokens, scratchResidual, y, outWidth), x, w, bias, out, width, gelu);
    operations.copyRows(a.y, a.yPitch, out, y, outWidth, out, a.tokens);
  }

  private void multiplyDense(
      Activations a, long x, long weight, long bias, int out, int in, boolean gelu) {
    DenseGemm.Extents extents = new DenseGemm.Extents(a.tokens, out, in, a.yPitch, a.residual != 0);
    dense.multiply(
        extents,
        new DenseGemm.Operands(x, weight, bias, a.residual, a.y),
        gelu,
        operations.overlaps());
    if (gelu && dense.usesCublas()) {
      operations.gelu(a.y, a.y, (long) a.tokens * a.yPitch);
    }
  }

  /**
   * The same with a 2:4 weight.
   *
   * @param bias address of fp32 {@code [out]}
   */
  void sparse(Activations a, CudaPackedWeight weight, long bias, boolean gelu) {
    Epilogue epilogue =
        gelu ? Epilogue.BIAS_GELU : a.residual != 0 ? Epilogue.BIAS_RESIDUAL : Epilogue.BIAS;
    int in = weight.layout().in();
    int out = weight.layout().out();
    int xWidth = roundUp(in);
    long x = xWidth == in ? a.x : widen(xScratch, a.x, a.tokens, in, xWidth);
    // A tile ends at a multiple of 8 outputs, past which the neighbour's columns may lie.
    boolean direct =
        out % ALIGNED_ELEMENTS == 0
            && a.yPitch % ALIGNED_ELEMENTS == 0
            && a.y % 16 == 0
            && a.residual % 16 == 0;
    int yPitch = direct ? a.yPitch : roundUp(out);
    long y = direct ? a.y : yScratch.take(2L * a.tokens * yPitch);
    long residual = a.residual;
    if (!direct && residual != 0) {
      operations.copyRows(y, yPitch, yPitch, residual, a.yPitch, out, a.tokens);
      residual = y;
    }
    sparse.multiply(
        new SparseGemm.Operands(
            x, xWidth, weight, bias, residual, y, yPitch, a.tokens, a.tokenCount, epilogue, null),
        operations.overlaps());
    if (!direct) {
      operations.copyRows(a.y, a.yPitch, out, y, yPitch, out, a.tokens);
    }
  }

  /**
   * The same with a LayerNorm inside: of the residual where there is one, else of x. On Hopper,
   * with inputs and outputs that are multiples of 8.
   */
  void sparse(
      Activations a, CudaPackedWeight weight, long bias, boolean gelu, SparseGemm.FoldedNorm norm) {
    Epilogue epilogue =
        gelu
            ? Epilogue.NORM_BIAS_GELU
            : a.residual != 0 ? Epilogue.BIAS_NORM_RESIDUAL : Epilogue.NORM_BIAS;
    sparse.multiply(
        new SparseGemm.Operands(
            a.x,
            weight.layout().in(),
            weight,
            bias,
            a.residual,
            a.y,
            a.yPitch,
            a.tokens,
            a.tokenCount,
            epilogue,
            norm),
        operations.overlaps());
  }

  private long widen(Scratch scratch, long rows, int count, int width, int outWidth) {
    long wide = scratch.take(2L * count * outWidth);
    operations.copyRows(wide, outWidth, outWidth, rows, width, width, count);
    return wide;
  }

  private static int roundUp(int elements) {
    return Math.ceilDiv(elements, ALIGNED_ELEMENTS) * ALIGNED_ELEMENTS;
  }

  @Override
  public void close() {
    dense.close();
    xScratch.close();
    weightScratch.close();
    yScratch.close();
  }
}
