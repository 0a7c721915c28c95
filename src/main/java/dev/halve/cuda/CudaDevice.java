package dev.halve.cuda;

import static dev.halve.cuda.CudaTraining.addressOrNone;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.cuda.Operations.Ids;
import dev.halve.cuda.Operations.Norm;
import dev.halve.cuda.Operations.Rows;
import dev.halve.cuda.Products.Activations;
import dev.halve.cuda.TrainingProducts.Product;
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
  private final TrainingAttention attention;
  private final GeluGemm geluGemm;
  private final TrainingLosses losses;
  private final CudaAdamW optimizer;
  private final Scratch biasScratch;

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
      this.geluGemm = new GeluGemm(context, kernels, launch, measured, training, bfloat16);
      this.products =
          opened(
              new Products(context, kernels, launch, measured, operations, dtype, cublas, geluGemm),
              Products::close);
      this.trainingProducts =
          opened(new TrainingProducts(context, training, cublas), TrainingProducts::close);
      this.trainingOperations =
          new TrainingOperations(training, kernels, launch, training.sums(), gpu.multiprocessors());
      this.losses = new TrainingLosses(training, kernels, launch);
      this.optimizer = new CudaAdamW(training, kernels, launch, context);
      this.attention = new TrainingAttention(kernels, launch, operations, training, gpu.isHopper());
      this.biasScratch = opened(new Scratch(context), Scratch::close);
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
      if (training.recording()) {
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
      case Weight.Trainable trainable ->
          dense(activations, trainable.parameter(), bias, out, in, gelu, CudaTraining.isFloat(y));
      case Weight.Compressed compressed -> {
        long wide = biasScratch.take(4L * out);
        operations.toFloat(wide, address(bias), out);
        products.sparse(activations, (CudaPackedWeight) compressed.packed(), wide, gelu);
      }
      case Weight.Hybrid hybrid ->
          throw new HalveException(
              hybrid.name()
                  + " has dense rows among 2:4 ones, which a GPU runs compiled alone; compile the"
                  + " model, or decompress it");
    }
  }

  private void dense(
      Activations a,
      Parameter weight,
      Tensor bias,
      int out,
      int in,
      boolean gelu,
      boolean floatOutput) {
    if (out <= Operations.HEAD_OUTPUTS && !gelu) {
      operations.head(
          a.y(),
          !floatOutput,
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
  public void linears(Tensor x, List<Linear> linears, Tensor y) {
    if (!TrainingProducts.sideBySide(linears)) {
      Device.super.linears(x, linears, y);
      return;
    }
    context.makeCurrent();
    int out = linears.stream().mapToInt(Linear::out).sum();
    Activations activations =
        new Activations(address(x), extent(x, 0), 0, address(y), extent(y, 1));
    Linear first = linears.getFirst();
    products.dense(
        activations,
        address(TrainingProducts.parameter(first).compute()),
        address(first.bias().compute()),
        out,
        first.in(),
        false);
  }

  @Override
  public void linearsBackward(Tensor x, List<Linear> linears, Tensor dY, Tensor dX) {
    if (!TrainingProducts.sideBySide(linears)) {
      Device.super.linearsBackward(x, linears, dY, dX);
      return;
    }
    context.makeCurrent();
    Linear first = linears.getFirst();
    Product product =
        new Product(
            address(x),
            extent(x, 0),
            first.in(),
            address(TrainingProducts.parameter(first).compute()),
            linears.stream().mapToInt(Linear::out).sum(),
            address(dY),
            extent(dY, 1));
    List<Tensor> dWeights =
        linears.stream().map(each -> TrainingProducts.parameter(each).gradient()).toList();
    trainingProducts.weightGradient(product, dWeights);
    trainingProducts.inputGradient(product, address(dX), true);
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
    operations.attention(
        address(out),
        address(qkv),
        new Rows(address(batch.rowOffsets()), batch.rows(), batch.longestRow(), batch.tokens()),
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
    Parameter parameter = ((Weight.Trainable) weight).parameter();
    if (CudaTraining.isFloat(dY)) {
      trainingOperations.headBackward(x, parameter, dY, dWeight, dBias, dX);
      return;
    }
    Product product = product(x, parameter, dY, column);
    trainingProducts.weightGradient(product, List.of(dWeight));
    if (dX != null) {
      trainingProducts.inputGradient(product, address(dX), addToInput);
    }
    if (dBias != null) {
      trainingProducts.biasGradient(product, dBias);
    }
  }

  private static Product product(Tensor x, Parameter weight, Tensor dY, int column) {
    return new Product(
        address(x),
        extent(x, 0),
        extent(x, 1),
        address(weight.compute()),
        extent(weight.value(), 0),
        address(dY) + 2L * column,
        extent(dY, 1));
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
    Parameter parameter = ((Weight.Trainable) weight).parameter();
    int out = extent(inner, 1);
    geluGemm.run(
        new GeluGemm.Operands(
            address(x),
            address(parameter.compute()),
            address(inner),
            address(y),
            address(bias),
            0,
            extent(x, 0),
            extent(x, 1),
            out,
            false),
        o -> {
          Activations activations = new Activations(o.x(), o.tokens(), 0, o.inner(), out);
          products.dense(activations, o.weight(), o.bias(), out, o.in(), false);
          operations.gelu(o.y(), o.inner(), inner.elements());
        });
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
    Parameter parameter = ((Weight.Trainable) weight).parameter();
    Product product = product(activated, parameter, dY, 0);
    GeluGemm.Operands operands =
        new GeluGemm.Operands(
            product.dY(),
            product.weight(),
            address(inner),
            address(dInner),
            0,
            address(dInnerBias),
            product.tokens(),
            product.out(),
            product.in(),
            true);
    GeluGemm.Separately separately =
        o -> {
          trainingProducts.inputGradient(product, o.y(), false);
          trainingOperations.geluBackward(o.inner(), o.y(), o.y(), o.tokens(), o.out(), o.dBias());
        };
    geluGemm.choose(operands, separately);
    trainingProducts.weightGradient(product, List.of(dWeight));
    geluGemm.run(operands, separately);
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
      Tensor logits,
      DeviceBatch batch,
      Tensor starts,
      Tensor ends,
      float weight,
      Tensor dLogits,
      Tensor loss) {
    context.makeCurrent();
    losses.spanLoss(logits, batch, starts, ends, weight, dLogits, loss);
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
