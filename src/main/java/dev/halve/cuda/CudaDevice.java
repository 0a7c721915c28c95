package dev.halve.cuda;

import static dev.halve.cuda.CudaTraining.addressOrNone;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.cuda.Operations.Ids;
import dev.halve.cuda.Operations.Norm;
import dev.halve.cuda.Operations.Rows;
import dev.halve.engine.AdamW;
import dev.halve.engine.BatchShape;
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
import dev.halve.engine.Replay;
import dev.halve.engine.Weight;
import java.lang.foreign.Arena;
import java.util.ArrayDeque;
import java.util.Deque;
import java.util.List;
import java.util.function.Consumer;

/**
 * One NVIDIA GPU: inference in fp16 or bf16 with fp32 accumulation, and training in bf16, which
 * {@link CudaTraining} and what is built on it carry out.
 */
final class CudaDevice implements Device {
  /** Closes what was opened, the last first. */
  private final Deque<Runnable> closing = new ArrayDeque<>();

  private final DType dtype;
  private final Arena arena = Arena.ofShared();
  private final CudaContext context;
  private final Kernels kernels;
  private final Operations operations;
  private final Products products;
  private final Staging staging;
  private final CudaTraining training;
  private final TrainingProducts trainingProducts;
  private final TrainingOperations trainingOperations;
  private final LinearLayers layers;
  private final TrainingAttention attention;
  private final TrainingLosses losses;
  private final CudaAdamW optimizer;

  CudaDevice(int index, DType dtype, KernelCache cache) {
    this(index, dtype, cache, true);
  }

  /**
   * @param useCublas false to do without cuBLASLt even where it is installed
   */
  CudaDevice(int index, DType dtype, KernelCache cache, boolean useCublas) {
    this.dtype = dtype;
    boolean bfloat16 = dtype == DType.BF16;
    try {
      closing.push(arena::close);
      this.context = opened(new CudaContext(index), CudaContext::close);
      GpuProperties gpu = context.properties();
      this.kernels = opened(new Kernels(context, cache, dtype), Kernels::close);
      KernelLaunch launch = new KernelLaunch(arena, context.stream());
      this.operations = new Operations(kernels, launch, gpu);
      Measured measured = new Measured(context, cache);
      CublasProducts cublas = null;
      if (useCublas && CublasLt.present()) {
        cublas = opened(new CublasProducts(context, measured, bfloat16), CublasProducts::close);
      }
      this.staging = opened(new Staging(context), Staging::close);
      this.training =
          opened(
              new CudaTraining(context, kernels, launch, staging, bfloat16), CudaTraining::close);
      GeluGemm geluGemm = new GeluGemm(context, kernels, launch, measured, training, bfloat16);
      this.products =
          opened(
              new Products(context, kernels, launch, measured, operations, dtype, cublas, geluGemm),
              Products::close);
      this.trainingProducts =
          opened(new TrainingProducts(context, training, cublas), TrainingProducts::close);
      this.trainingOperations =
          new TrainingOperations(training, kernels, launch, gpu.multiprocessors());
      this.losses = new TrainingLosses(training, kernels, launch);
      this.optimizer = new CudaAdamW(training, kernels, launch, context);
      this.attention = new TrainingAttention(kernels, launch, operations, training, gpu.isHopper());
      this.layers =
          opened(
              new LinearLayers(
                  context, operations, products, geluGemm, trainingProducts, trainingOperations),
              LinearLayers::close);
    } catch (Throwable failed) {
      closeOpened();
      throw failed;
    }
  }

  private <T> T opened(T resource, Consumer<T> close) {
    closing.push(() -> close.accept(resource));
    return resource;
  }

  private void closeOpened() {
    closing.forEach(Runnable::run);
    closing.clear();
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

  Kernels kernels() {
    return kernels;
  }

  CudaTraining training() {
    return training;
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
  public BatchShape shape(BatchShape batch) {
    return CudaTraining.shape(batch);
  }

  @Override
  public Replay openReplay() {
    return new CudaReplay(context, kernels, training);
  }

  @Override
  public void upload(Tensor host, Tensor device) {
    context.makeCurrent();
    training.join();
    training.written(device);
    try (Arena scratch = Arena.ofConfined()) {
      Tensor typed = host;
      if (host.dtype() != device.dtype()) {
        typed = Tensor.allocate(scratch, device.dtype(), host.shape().extents());
        typed.copyFrom(host);
      }
      if (context.recording()) {
        throw new IllegalStateException("a copy from the host in recorded work");
      }
      if (device.bytes() <= Staging.SLOT_BYTES) {
        staging.copy(typed.segment(), address(device));
        return;
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
    training.join();
    training.stale().clear(List.of(device));
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
    training.join();
    training.written(tensor);
    CudaDriver.fill(address(tensor), (byte) 0, tensor.bytes(), context.stream());
  }

  @Override
  public void round(Parameter parameter) {
    context.makeCurrent();
    if (parameter.isStraightThrough() && parameter.mask() != null) {
      optimizer.roundKept(parameter);
      return;
    }
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
      Dropout dropout,
      Tensor residual,
      Tensor gamma,
      Tensor beta,
      float epsilon,
      Tensor sum,
      Tensor statistics,
      Tensor out) {
    context.makeCurrent();
    if (sum != null) {
      trainingOperations.layerNorm(
          x, dropout, residual, gamma, beta, epsilon, sum, statistics, out);
      return;
    }
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
    layers.forward(x, weight, bias, epilogue, y, column);
  }

  @Override
  public void linears(Tensor x, List<Linear> linears, Tensor y) {
    if (!TrainingProducts.sideBySide(linears)) {
      Device.super.linears(x, linears, y);
      return;
    }
    context.makeCurrent();
    layers.forward(x, linears, y);
  }

  @Override
  public void linearsBackward(Tensor x, List<Linear> linears, Tensor dY, Tensor dX) {
    if (!TrainingProducts.sideBySide(linears)) {
      Device.super.linearsBackward(x, linears, dY, dX);
      return;
    }
    context.makeCurrent();
    layers.backward(x, linears, dY, dX);
  }

  @Override
  public void gelu(Tensor x, Tensor y) {
    context.makeCurrent();
    operations.gelu(address(y), address(x), x.elements());
  }

  @Override
  public void attention(
      Tensor qkv, DeviceBatch batch, int heads, Dropout dropout, Tensor logSumExp, Tensor out) {
    context.makeCurrent();
    int headSize = extent(out, 1) / heads;
    requireHeadSize(headSize);
    if (logSumExp != null) {
      attention.forward(qkv, batch, heads, dropout, logSumExp, out);
      return;
    }
    operations.attention(address(out), address(qkv), Rows.of(batch), heads, headSize);
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

  @Override
  public void embedBackward(
      DeviceBatch batch, Tensor dOut, Tensor dWord, Tensor dPosition, Tensor dType) {
    context.makeCurrent();
    trainingOperations.embedBackward(batch, dOut, dWord, dPosition, dType);
  }

  @Override
  public void layerNormBackward(
      Tensor sum,
      Tensor statistics,
      Tensor gamma,
      Tensor dOut,
      Tensor dSum,
      Dropout dropout,
      Tensor dX,
      Tensor dGamma,
      Tensor dBeta,
      Tensor dBias) {
    context.makeCurrent();
    trainingOperations.layerNormBackward(
        sum, statistics, gamma, dOut, dSum, dropout, dX, dGamma, dBeta, dBias);
  }

  @Override
  public void addGram(Tensor x, Tensor products) {
    context.makeCurrent();
    training.join();
    trainingProducts.addGram(address(x), extent(x, 0), extent(x, 1), address(products));
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
    context.makeCurrent();
    layers.backward(x, weight, dY, column, dWeight, dBias, dX, addToInput);
  }

  @Override
  public void geluBackward(Tensor x, Tensor dY, Tensor dX, Tensor dBias) {
    context.makeCurrent();
    trainingOperations.geluBackward(
        address(x), address(dY), address(dX), extent(x, 0), extent(x, 1), addressOrNone(dBias));
  }

  @Override
  public void linearGelu(Tensor x, Weight weight, Tensor bias, Tensor inner, Tensor y) {
    context.makeCurrent();
    layers.forwardGelu(x, weight, bias, inner, y);
  }

  @Override
  public void linearGeluBackward(
      Tensor activated,
      Weight weight,
      Tensor dY,
      Tensor dWeight,
      Tensor inner,
      Tensor dInner,
      Tensor dInnerBias) {
    context.makeCurrent();
    layers.backwardGelu(activated, weight, dY, dWeight, inner, dInner, dInnerBias);
  }

  @Override
  public void dropout(Tensor x, Dropout dropout, Tensor y) {
    context.makeCurrent();
    trainingOperations.dropout(x, dropout, y);
  }

  @Override
  public void add(Tensor x, Tensor y) {
    context.makeCurrent();
    trainingOperations.add(x, y);
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
      Tensor dQkv,
      List<Tensor> dBiases) {
    context.makeCurrent();
    attention.backward(qkv, batch, heads, dropout, logSumExp, out, dOut, dQkv, dBiases);
  }

  @Override
  public void spanLoss(
      Tensor logits, DeviceBatch batch, float weight, Tensor dLogits, Tensor loss) {
    context.makeCurrent();
    losses.spanLoss(logits, batch, weight, dLogits, loss);
  }

  @Override
  public void distillationLoss(
      Tensor logits,
      Tensor teacher,
      DeviceBatch batch,
      float temperature,
      float weight,
      Tensor dLogits,
      Tensor loss) {
    context.makeCurrent();
    losses.distillationLoss(logits, teacher, batch, temperature, weight, dLogits, loss);
  }

  @Override
  public void hiddenLoss(
      Tensor student,
      Tensor teacher,
      DeviceBatch batch,
      float weight,
      Tensor dStudent,
      Tensor loss) {
    context.makeCurrent();
    losses.hiddenLoss(student, teacher, batch, weight, dStudent, loss);
  }

  @Override
  public void chooseMask(Tensor weight, Tensor mask) {
    context.makeCurrent();
    optimizer.chooseMask(weight, mask);
  }

  @Override
  public void adamW(List<Parameter> parameters, AdamW settings, int step, Tensor norm) {
    context.makeCurrent();
    optimizer.step(parameters, settings, step, norm);
  }

  static long address(Tensor tensor) {
    return tensor.segment().address();
  }

  static int extent(Tensor tensor, int axis) {
    return Math.toIntExact(tensor.extent(axis));
  }

  @Override
  public void close() {
    context.makeCurrent();
    training.joinSide();
    context.synchronize();
    closeOpened();
  }
}
