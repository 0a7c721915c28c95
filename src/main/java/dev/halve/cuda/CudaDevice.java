package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.cuda.Operations.Ids;
import dev.halve.cuda.Operations.Norm;
import dev.halve.cuda.Operations.Rows;
import dev.halve.cuda.Products.Activations;
import dev.halve.engine.AdamW;
import dev.halve.engine.BertModel;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Device;
import dev.halve.engine.DeviceBatch;
import dev.halve.engine.Dropout;
import dev.halve.engine.Epilogue;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedWeight;
import dev.halve.engine.Parameter;
import dev.halve.engine.Pool;
import dev.halve.engine.Weight;
import java.lang.foreign.Arena;
import java.util.List;

/**
 * One NVIDIA GPU: inference in fp16 or bf16 with fp32 accumulation. Training is not among its
 * operations.
 */
final class CudaDevice implements Device {
  private final DType dtype;
  private final Arena arena = Arena.ofShared();
  private final CudaContext context;
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final Operations operations;
  private final Products products;
  private final Scratch biasScratch;

  CudaDevice(int index, DType dtype, KernelCache cache) {
    this(index, dtype, cache, true);
  }

  /**
   * @param useCublas false to do without cuBLASLt even where it is installed
   */
  CudaDevice(int index, DType dtype, KernelCache cache, boolean useCublas) {
    this.dtype = dtype;
    this.context = new CudaContext(index);
    this.kernels = new Kernels(context, cache, dtype);
    this.launch = new KernelLaunch(arena, context.stream());
    this.operations = new Operations(kernels, launch, context.properties());
    this.products =
        new Products(
            context, kernels, launch, new Measured(context, cache), operations, dtype, useCublas);
    this.biasScratch = new Scratch(context);
  }

  CudaContext context() {
    return context;
  }

  Operations operations() {
    return operations;
  }

  Products products() {
    return products;
  }

  @Override
  public String name() {
    return context.name();
  }

  @Override
  public DType computeType() {
    return dtype;
  }

  @Override
  public CudaPool openPool() {
    return new CudaPool(context);
  }

  @Override
  public void upload(Tensor host, Tensor device) {
    context.makeCurrent();
    try (Arena scratch = Arena.ofConfined()) {
      Tensor typed = host;
      if (host.dtype() != device.dtype()) {
        typed = Tensor.allocate(scratch, device.dtype(), host.shape().extents());
        typed.copyFrom(host);
      }
      CudaDriver.copyToDevice(
          address(device), typed.segment().address(), device.bytes(), context.stream());
      // The host's memory may change or go as soon as this returns.
      context.synchronize();
    }
  }

  @Override
  public void download(Tensor device, Tensor host) {
    context.makeCurrent();
    try (Arena scratch = Arena.ofConfined()) {
      Tensor typed =
          host.dtype() == device.dtype()
              ? host
              : Tensor.allocate(scratch, device.dtype(), device.shape().extents());
      CudaDriver.copyToHost(
          typed.segment().address(), address(device), device.bytes(), context.stream());
      context.synchronize();
      if (typed != host) {
        host.copyFrom(typed);
      }
    }
  }

  @Override
  public void zero(Tensor tensor) {
    context.makeCurrent();
    CudaDriver.fill(address(tensor), (byte) 0, tensor.bytes(), context.stream());
  }

  @Override
  public void round(Parameter parameter) {
    context.makeCurrent();
    operations.fromFloat(
        address(parameter.compute()), address(parameter.value()), parameter.value().elements());
  }

  @Override
  public PackedWeight pack(Pool pool, SparseSemiStructuredTensor weight) {
    context.makeCurrent();
    return CudaPackedWeight.pack(context, (CudaPool) pool, dtype, weight);
  }

  @Override
  public void embed(DeviceBatch batch, Tensor word, Tensor position, Tensor type, Tensor out) {
    context.makeCurrent();
    operations.embeddings(
        address(out),
        new Ids(address(batch.tokenIds()), address(batch.positions()), address(batch.typeIds())),
        address(word),
        address(position),
        address(type),
        batch.tokens(),
        extent(out, 1));
  }

  @Override
  public void layerNorm(
      Tensor x,
      Tensor residual,
      Tensor gamma,
      Tensor beta,
      float epsilon,
      Tensor sum,
      Tensor statistics,
      Tensor out) {
    requireInference(sum == null && statistics == null);
    context.makeCurrent();
    operations.layerNorm(
        address(out),
        address(x),
        residual == null ? 0 : address(residual),
        new Norm(address(gamma), address(beta), epsilon),
        extent(x, 0),
        extent(x, 1));
  }

  @Override
  public void linear(
      Tensor x, Weight weight, Tensor bias, Epilogue epilogue, Tensor y, int column) {
    context.makeCurrent();
    int tokens = extent(x, 0);
    int pitch = extent(y, 1);
    int out = Math.toIntExact(weight.shape().extent(0));
    int in = Math.toIntExact(weight.shape().extent(1));
    boolean gelu = epilogue == Epilogue.GELU;
    if (gelu && pitch != out) {
      throw new IllegalArgumentException("GELU covers whole rows of the output");
    }
    long from = address(y) + 2L * column;
    Activations activations = new Activations(address(x), tokens, 0, from, pitch);
    switch (weight) {
      case Weight.Dense(Parameter parameter) -> dense(activations, parameter, bias, out, in, gelu);
      case Weight.Masked(Parameter parameter) -> dense(activations, parameter, bias, out, in, gelu);
      case Weight.Compressed compressed -> {
        long wide = biasScratch.take(4L * out);
        operations.toFloat(wide, address(bias), out);
        products.sparse(activations, (CudaPackedWeight) compressed.packed(), wide, gelu);
      }
    }
  }

  private void dense(Activations a, Parameter weight, Tensor bias, int out, int in, boolean gelu) {
    if (out <= Operations.HEAD_OUTPUTS && !gelu) {
      operations.head(
          a.y(),
          true,
          a.yPitch(),
          a.x(),
          address(weight.compute()),
          address(bias),
          a.tokens(),
          in,
          out);
    } else {
      products.dense(a, address(weight.compute()), address(bias), out, in, gelu);
    }
  }

  @Override
  public void gelu(Tensor x, Tensor y) {
    context.makeCurrent();
    operations.gelu(address(y), address(x), x.elements());
  }

  @Override
  public void attention(
      Tensor qkv, DeviceBatch batch, int heads, Dropout dropout, Tensor logSumExp, Tensor out) {
    requireInference(dropout.isNone() && logSumExp == null);
    context.makeCurrent();
    int headSize = extent(out, 1) / heads;
    requireHeadSize(headSize);
    operations.attention(
        address(out),
        address(qkv),
        new Rows(
            address(batch.rowOffsets()), batch.rows(), batch.host().longestRow(), batch.tokens()),
        heads,
        headSize);
  }

  static void requireHeadSize(int headSize) {
    if (!Operations.hasAttention(headSize)) {
      throw new HalveException(
          "the GPU's attention takes heads of 32 or 64, the model has heads of "
              + headSize
              + "; use --device cpu");
    }
  }

  @Override
  public CompiledModel compile(BertModel model, Linear head, int maxTokens, int maxRows) {
    context.makeCurrent();
    return new CudaCompiledModel(this, model, head, maxTokens, maxRows);
  }

  private static void requireInference(boolean holds) {
    if (!holds) {
      throw notForTraining();
    }
  }

  private static HalveException notForTraining() {
    return new HalveException(
        "the GPU runs models but does not train them yet; train with --device cpu");
  }

  @Override
  public void embedBackward(
      DeviceBatch batch, Tensor dOut, Tensor dWord, Tensor dPosition, Tensor dType) {
    throw notForTraining();
  }

  @Override
  public void layerNormBackward(
      Tensor sum,
      Tensor statistics,
      Tensor gamma,
      Tensor dOut,
      Tensor dSum,
      Tensor dGamma,
      Tensor dBeta) {
    throw notForTraining();
  }

  @Override
  public void linearBackward(
      Tensor x,
      Weight weight,
      Tensor dY,
      int column,
      Tensor dWeight,
      Tensor dBias,
      Tensor dX,
      boolean addToInput) {
    throw notForTraining();
  }

  @Override
  public void geluBackward(Tensor x, Tensor dY, Tensor dX) {
    throw notForTraining();
  }

  @Override
  public void dropout(Tensor x, Dropout dropout, Tensor y) {
    throw notForTraining();
  }

  @Override
  public void add(Tensor x, Tensor y) {
    throw notForTraining();
  }

  @Override
  public void attentionBackward(
      Tensor qkv,
      DeviceBatch batch,
      int heads,
      Dropout dropout,
      Tensor logSumExp,
      Tensor out,
      Tensor dOut,
      Tensor dQkv) {
    throw notForTraining();
  }

  @Override
  public void spanLoss(
      Tensor logits, DeviceBatch batch, Tensor starts, Tensor ends, Tensor dLogits, Tensor loss) {
    throw notForTraining();
  }

  @Override
  public void adamW(List<Parameter> parameters, AdamW settings, int step, Tensor norm) {
    throw notForTraining();
  }

  static long address(Tensor tensor) {
    return tensor.segment().address();
  }

  private static int extent(Tensor tensor, int axis) {
    return Math.toIntExact(tensor.extent(axis));
  }

  @Override
  public void close() {
    context.makeCurrent();
    context.synchronize();
    products.close();
    biasScratch.close();
    kernels.close();
    context.close();
    arena.close();
  }
}
