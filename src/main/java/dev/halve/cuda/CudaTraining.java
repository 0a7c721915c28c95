package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;
import static dev.halve.cuda.CudaDevice.extent;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.cuda.KernelLaunch.Kernel;
import dev.halve.engine.AdamW;
import dev.halve.engine.BatchShape;
import dev.halve.engine.DeviceBatch;
import dev.halve.engine.Dropout;
import dev.halve.engine.Linear;
import dev.halve.engine.Parameter;
import dev.halve.engine.StepScalars;
import dev.halve.engine.Weight;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The operations that only training needs: bf16 activations, products with fp32 accumulation, fp32
 * gradients, master weights and moments. bf16 has the exponents of fp32, so that gradients need no
 * loss scaling. Every sum has a fixed order: the same input gives the same bits.
 *
 * <p>What changes from step to step lies in device memory ({@link #set}), so that a recorded step
 * can be replayed.
 */
final class CudaTraining implements AutoCloseable {
  /** Seed and optimizer scalars, as {@code Scalars} in adamw.cu. */
  private static final int SCALAR_BYTES = 40;

  private static final int SITE_BYTES = 24;
  private static final int PIECE_BYTES = 56;
  private static final int PIECE_ELEMENTS = 1 << 14;

  private final CudaContext context;
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final CublasProducts cublas;
  private final Staging staging;
  private final boolean bfloat16;
  private final Arena arena = Arena.ofShared();
  private final MemorySegment site = arena.allocate(SITE_BYTES, 8);
  private final MemorySegment hostScalars = arena.allocate(SCALAR_BYTES, 8);
  private final long scalars;
  private final List<Long> owned = new ArrayList<>();
  private final Map<List<Long>, Pieces> pieces = new HashMap<>();
  private final long workspace;
  private final long sideWorkspace;
  private final long sideStream;
  private final long forked;
  private final long joined;
  private long scratch;
  private long scratchBytes;
  private boolean recording;
  private boolean outstanding;

  /** A parameter list cut up for the optimizer's kernels, in device memory. */
  private record Pieces(long address, int count) {}

  /**
   * @param cublas null where cuBLASLt is missing; then products have no gradients
   */
  CudaTraining(
      CudaContext context,
      Kernels kernels,
      KernelLaunch launch,
      CublasProducts cublas,
      Staging staging,
      boolean bfloat16) {
    this.context = context;
    this.kernels = kernels;
    this.launch = launch;
    this.cublas = cublas;
    this.staging = staging;
    this.bfloat16 = bfloat16;
    this.scalars = allocate(256);
    this.workspace = allocate(cublas == null ? 1 : CublasLt.WORKSPACE_BYTES);
    this.sideWorkspace = allocate(cublas == null ? 1 : CublasLt.WORKSPACE_BYTES);
    this.sideStream = CudaDriver.createStream();
    this.forked = CudaDriver.createOrderingEvent();
    this.joined = CudaDriver.createOrderingEvent();
    OpenResources.opened();
    OpenResources.opened();
    OpenResources.opened();
  }

  private long allocate(long bytes) {
    long address = context.allocate(bytes);
    owned.add(address);
    return address;
  }

  void requireTraining() {
    if (!bfloat16) {
      throw new HalveException(
          "the GPU trains in bf16 and this device computes in fp16; open it for training");
    }
  }

  /** Records what the work queues; none of it runs. */
  CudaGraph record(Runnable work) {
    recording = true;
    try {
      return CudaGraph.record(
          context,
          () -> {
            work.run();
            join();
          });
    } finally {
      recording = false;
    }
  }

  boolean recording() {
    return recording;
  }

  /** Device memory for one operation at a time. Recorded launches keep what they were given. */
  long scratch(long bytes) {
    if (bytes > scratchBytes) {
      scratchBytes = Math.max(bytes, 2 * scratchBytes);
      scratch = allocate(scratchBytes);
    }
    return scratch;
  }

  /** The shape under which batches of about one size share a recording. */
  static BatchShape shape(BatchShape batch) {
    int tokens = TokenBuckets.roundUp(batch.tokens());
    int longest = Math.ceilDiv(batch.longestRow(), 128) * 128;
    int rows = batch.rows() + Math.ceilDiv(tokens - batch.tokens(), longest);
    return new BatchShape(tokens, Math.ceilDiv(rows, 8) * 8, longest);
  }

  /** Puts a step's scalars where the kernels queued from now on read them. */
  void set(StepScalars step) {
    AdamW optimizer = step.optimizer();
    hostScalars.set(JAVA_INT, 0, step.seed());
    float[] values = {
      (float) (optimizer.learningRate() / (1 - Math.pow(optimizer.beta1(), step.step()))),
      (float) (1 / Math.sqrt(1 - Math.pow(optimizer.beta2(), step.step()))),
      (float) (1 - optimizer.learningRate() * optimizer.weightDecay()),
      (float) optimizer.maxNorm(),
      (float) optimizer.beta1(),
      (float) optimizer.beta2(),
      (float) optimizer.epsilon(),
      (float) optimizer.maskedKeep(),
      (float) optimizer.maskedDecay()
    };
    MemorySegment.copy(values, 0, hostScalars, JAVA_FLOAT, 4, values.length);
    staging.copy(hostScalars, scalars);
  }

  /** A use of dropout as the kernels take it; {@code DropoutSite} in dropout.cuh. */
  MemorySegment site(Dropout dropout) {
    if (!dropout.isNone() && !recording && hostScalars.get(JAVA_INT, 0) != dropout.stepSeed()) {
      // Outside a replay the operation brings its own seed.
      hostScalars.set(JAVA_INT, 0, dropout.stepSeed());
      staging.copy(hostScalars, scalars);
    }
    site.set(JAVA_LONG, 0, scalars);
    site.set(JAVA_INT, 8, Dropout.mix(dropout.site()));
    site.set(JAVA_INT, 12, dropout.threshold());
    site.set(JAVA_FLOAT, 16, dropout.scale());
    return site;
  }

  static String flag(boolean value) {
    return value ? "1" : "0";
  }

  private static long addressOrNone(Tensor tensor) {
    return tensor == null ? 0 : address(tensor);
  }

  private static void requireEights(int features) {
    if (features % 8 != 0) {
      throw new HalveException(
          "the GPU trains layers whose sizes are multiples of 8, found %d; use --device cpu"
              .formatted(features));
    }
  }

  private static int perTokenBlocks(Kernel kernel, int tokens) {
    return Math.min(kernel.blocks(), Math.ceilDiv(tokens, 4));
  }

  void layerNorm(
      Tensor x,
      Dropout dropout,
      Tensor residual,
      Tensor gamma,
      Tensor beta,
      float epsilon,
      Tensor sum,
      Tensor statistics,
      Tensor out) {
    requireTraining();
    int tokens = extent(x, 0);
    MemorySegment site = site(dropout);
    Kernel kernel = normKernel("dropout_residual_layer_norm", extent(x, 1), dropout);
    launch
        .of(kernel, perTokenBlocks(kernel, tokens), 1, 1, 128, 0)
        .with(out)
        .with(sum)
        .with(statistics)
        .with(x)
        .with(addressOrNone(residual))
        .with(gamma)
        .with(beta)
        .with(epsilon)
        .with(tokens)
        .with(site)
        .launch();
  }

  private Kernel normKernel(String entry, int hidden, Dropout dropout) {
    Map<String, String> definitions =
        Map.of("HIDDEN", String.valueOf(hidden), "DROPOUT", flag(!dropout.isNone()));
    return kernels.get("layer_norm_training.cu", entry, definitions, 128);
  }

  void layerNormBackward(
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
    requireTraining();
    int tokens = extent(sum, 0);
    int hidden = extent(sum, 1);
    MemorySegment site = site(dropout);
    Kernel kernel = normKernel("layer_norm_backward", hidden, dropout);
    int blocks = perTokenBlocks(kernel, tokens);
    long partial = scratch(4L * blocks * 3 * hidden);
    launch
        .of(kernel, blocks, 1, 1, 128, 0)
        .with(dSum)
        .with(addressOrNone(dX))
        .with(partial)
        .with(sum)
        .with(statistics)
        .with(gamma)
        .with(dOut)
        .with(tokens)
        .with(site)
        .launch();
    addPartials(partial, 3 * hidden, hidden, blocks, dGamma, dBeta, dBias);
  }

  /** Adds up partial sums that lie side by side, {@code width} columns for each of the outputs. */
  private void addPartials(long partial, int pitch, int width, int parts, Tensor... outputs) {
    int count = outputs[outputs.length - 1] == null ? outputs.length - 1 : outputs.length;
    Kernel kernel = kernels.get("column_sums.cu", "add_partials", Map.of(), 1024);
    launch.of(kernel, Math.ceilDiv(width, 32), count, 1, 1024, 0);
    for (int i = 0; i < 3; i++) {
      launch.with(i < count ? address(outputs[i]) : 0);
    }
    launch.with(partial).with(pitch).with(width).with(parts).launch();
  }

  /** Blocks along the tokens for kernels that take 64 columns a block. */
  private int tokenParts(int width, int tokens) {
    int wanted = Math.ceilDiv(8 * context.properties().multiprocessors(), Math.ceilDiv(width, 64));
    return Math.clamp(wanted, 1, Math.ceilDiv(tokens, 32));
  }

  void geluBackward(Tensor x, Tensor dY, Tensor dX, Tensor dBias) {
    requireTraining();
    int tokens = extent(x, 0);
    int width = extent(x, 1);
    requireEights(width);
    int parts = tokenParts(width, tokens);
    long partial = dBias == null ? 0 : scratch(4L * parts * width);
    Kernel kernel = kernels.get("column_sums.cu", "gelu_backward", Map.of(), 256);
    launch
        .of(kernel, Math.ceilDiv(width, 64), parts, 1, 256, 0)
        .with(partial)
        .with(dX)
        .with(x)
        .with(dY)
        .with(width)
        .with(tokens)
        .launch();
    if (dBias != null) {
      addPartials(partial, width, width, parts, dBias);
    }
  }

  void dropout(Tensor x, Dropout dropout, Tensor y) {
    requireTraining();
    requireEights(extent(x, 1));
    MemorySegment site = site(dropout);
    Kernel kernel = kernels.get("dropout.cu", "dropout", Map.of(), 256);
    launch
        .of(kernel, elementBlocks(kernel, x), 1, 1, 256, 0)
        .with(y)
        .with(x)
        .with(extent(x, 1))
        .with(x.elements())
        .with(site)
        .launch();
  }

  void add(Tensor x, Tensor y) {
    requireTraining();
    requireEights(extent(x, 1));
    Kernel kernel = kernels.get("dropout.cu", "add", Map.of(), 256);
    launch
        .of(kernel, elementBlocks(kernel, x), 1, 1, 256, 0)
        .with(y)
        .with(x)
        .with(x.elements())
        .launch();
  }

  private static long elementBlocks(Kernel kernel, Tensor x) {
    return Math.clamp(Math.ceilDiv(x.elements(), 2048L), 1, kernel.blocks());
  }

  /** Whether layers' weights, biases and gradients follow one another in memory. */
  static boolean sideBySide(List<Linear> linears) {
    for (int i = 0; i + 1 < linears.size(); i++) {
      Parameter here = parameter(linears.get(i));
      Parameter next = parameter(linears.get(i + 1));
      if (here == null
          || next == null
          || !follows(here, next)
          || !follows(linears.get(i).bias(), linears.get(i + 1).bias())) {
        return false;
      }
    }
    return parameter(linears.getFirst()) != null;
  }

  /** A dense weight's parameter, or null. */
  static Parameter parameter(Linear linear) {
    return switch (linear.weight()) {
      case Weight.Dense(Parameter parameter) -> parameter;
      case Weight.Masked(Parameter parameter) -> parameter;
      case Weight.Compressed _, Weight.Hybrid _ -> null;
    };
  }

  private static boolean follows(Parameter here, Parameter next) {
    boolean compute = address(next.compute()) == address(here.compute()) + here.compute().bytes();
    if (here.gradient() == null || next.gradient() == null) {
      return compute;
    }
    return compute
        && address(next.gradient()) == address(here.gradient()) + here.gradient().bytes();
  }

  /**
   * The gradients of a product.
   *
   * @param dY address of the first of its columns, rows {@code pitch} elements apart
   * @param dBias 0 for none
   * @param dX 0 for none
   */
  record ProductGradients(
      long x,
      int tokens,
      int in,
      long weight,
      int out,
      long dY,
      int pitch,
      long dWeight,
      long dBias,
      long dX,
      boolean addToInput) {}

  /**
   * Queues both products. The weight's gradient is made on a second stream, beside what follows on
   * the first, until {@link #join}: it fills the multiprocessors that the other leaves idle, and
   * has them while the other waits for memory. {@code x} and {@code dY} stay as they are until
   * then, as {@code Device.linearBackward} says.
   */
  void linearBackward(ProductGradients g) {
    requireTraining();
    requireEights(g.in);
    requireEights(g.out);
    if (cublas == null) {
      throw new HalveException(
          "training on the GPU needs cuBLASLt, which comes with a CUDA toolkit; install one, or use"
              + " --device cpu");
    }
    int size = TokenBuckets.roundUp(g.tokens);
    join();
    CudaDriver.record(forked, context.stream());
    CudaDriver.waitFor(forked, sideStream);
    cublas.multiply(
        CublasLt.Form.weightGradient(g.tokens, g.out, g.in, g.pitch),
        size,
        new CublasProducts.Operands(g.x, g.dY, 0, g.dWeight, g.dWeight),
        sideWorkspace,
        sideStream);
    CudaDriver.record(joined, sideStream);
    outstanding = true;
    if (g.dX != 0) {
      cublas.multiply(
          CublasLt.Form.inputGradient(g.tokens, g.out, g.in, g.pitch, g.addToInput),
          size,
          new CublasProducts.Operands(g.weight, g.dY, 0, g.addToInput ? g.dX : 0, g.dX),
          workspace,
          context.stream());
    }
    if (g.dBias != 0) {
      addColumnSums(g.dY, g.pitch, g.out, g.tokens, g.dBias);
    }
  }

  /** Lets what is queued from now on come after the weight gradients that were asked for. */
  void join() {
    if (outstanding) {
      CudaDriver.waitFor(joined, context.stream());
      outstanding = false;
    }
  }

  private void addColumnSums(long x, int pitch, int width, int tokens, long sums) {
    int parts = tokenParts(width, tokens);
    long partial = scratch(4L * parts * width);
    launch
        .of(
            kernels.get("column_sums.cu", "column_sums", Map.of(), 256),
            Math.ceilDiv(width, 64),
            parts,
            1,
            256,
            0)
        .with(partial)
        .with(x)
        .with(pitch)
        .with(width)
        .with(tokens)
        .launch();
    launch
        .of(
            kernels.get("column_sums.cu", "add_partials", Map.of(), 1024),
            Math.ceilDiv(width, 32),
            1,
            1,
            1024,
            0)
        .with(sums)
        .with(0L)
        .with(0L)
        .with(partial)
        .with(width)
        .with(width)
        .with(parts)
        .launch();
  }

  /** The gradients of a head with fp32 outputs. */
  void headBackward(
      Tensor x, Parameter weight, Tensor dY, Tensor dWeight, Tensor dBias, Tensor dX) {
    requireTraining();
    int tokens = extent(x, 0);
    int hidden = extent(x, 1);
    int outputs = extent(weight.value(), 0);
    Kernel kernel =
        kernels.get(
            "head_backward.cu",
            "head_backward",
            Map.of("HIDDEN", String.valueOf(hidden), "OUTPUTS", String.valueOf(outputs)),
            128);
    int blocks = perTokenBlocks(kernel, tokens);
    int width = outputs * hidden + outputs;
    long partial = scratch(4L * blocks * width);
    launch
        .of(kernel, blocks, 1, 1, 128, 0)
        .with(addressOrNone(dX))
        .with(partial)
        .with(x)
        .with(weight.compute())
        .with(dY)
        .with(tokens)
        .launch();
    addPartials(partial, width, outputs * hidden, blocks, dWeight);
    addPartials(partial + 4L * outputs * hidden, width, outputs, blocks, dBias);
  }

  void embedBackward(DeviceBatch batch, Tensor dOut, Tensor dWord, Tensor dPosition, Tensor dType) {
    requireTraining();
    join();
    int hidden = extent(dOut, 1);
    int types = extent(dType, 0);
    requireEights(hidden);
    Map<String, String> definitions =
        Map.of("HIDDEN", String.valueOf(hidden), "TYPES", String.valueOf(types));
    launch
        .of(embeddingKernel("word_gradient", definitions), batch.tokens(), 1, 1, 128, 0)
        .with(dWord)
        .with(dOut)
        .with(batch.tokenIds())
        .with(batch.tokenCount())
        .launch();
    int positions = Math.min(batch.longestRow(), extent(dPosition, 0));
    launch
        .of(embeddingKernel("position_gradient", definitions), positions, 1, 1, 128, 0)
        .with(dPosition)
        .with(dOut)
        .with(batch.rowOffsets())
        .with(batch.rows())
        .with(batch.tokenCount())
        .launch();
    int parts =
        Math.min(2 * context.properties().multiprocessors(), Math.ceilDiv(batch.tokens(), 8));
    long partial = scratch(4L * parts * types * hidden);
    launch
        .of(embeddingKernel("type_gradient", definitions), parts, 1, 1, 128, 0)
        .with(partial)
        .with(dOut)
        .with(batch.typeIds())
        .with(batch.tokenCount())
        .launch();
    addPartials(partial, types * hidden, types * hidden, parts, dType);
  }

  private Kernel embeddingKernel(String entry, Map<String, String> definitions) {
    return kernels.get("embeddings_backward.cu", entry, definitions, 128);
  }

  void spanLoss(
      Tensor logits,
      DeviceBatch batch,
      Tensor starts,
      Tensor ends,
      float weight,
      Tensor dLogits,
      Tensor loss) {
    requireTraining();
    long rowLosses = scratch(8L * batch.rows());
    launch
        .of(lossKernel("span_loss", 8, 64), batch.rows(), 1, 1, 64, 0)
        .with(dLogits)
        .with(rowLosses)
        .with(logits)
        .with(batch.rowOffsets())
        .with(starts)
        .with(ends)
        .with(batch.rows())
        .with(weight)
        .launch();
    addLosses(loss, rowLosses, batch.rows());
  }

  void distillationLoss(
      Tensor logits,
      Tensor teacher,
      DeviceBatch batch,
      float temperature,
      float weight,
      Tensor dLogits,
      Tensor loss) {
    requireTraining();
    long rowLosses = scratch(8L * batch.rows());
    launch
        .of(lossKernel("distillation_loss", 8, 64), batch.rows(), 1, 1, 64, 0)
        .with(dLogits)
        .with(rowLosses)
        .with(logits)
        .with(teacher)
        .with(batch.rowOffsets())
        .with(batch.tokenCount())
        .with(batch.rows())
        .with(temperature)
        .with(weight)
        .launch();
    addLosses(loss, rowLosses, batch.rows());
  }

  private void addLosses(Tensor loss, long rowLosses, int rows) {
    launch
        .of(lossKernel("add_losses", 8, 32), 1, 1, 1, 32, 0)
        .with(loss)
        .with(rowLosses)
        .with(2 * rows)
        .launch();
  }

  void hiddenLoss(
      Tensor student,
      Tensor teacher,
      DeviceBatch batch,
      float weight,
      Tensor dStudent,
      Tensor loss) {
    requireTraining();
    int hidden = extent(student, 1);
    requireEights(hidden);
    Kernel squares = lossKernel("hidden_squares", hidden, 256);
    long blocks = elementBlocks(squares, student);
    long partial = scratch(8L * blocks);
    launch
        .of(squares, blocks, 1, 1, 256, 0)
        .with(partial)
        .with(student)
        .with(teacher)
        .with(batch.tokenCount())
        .launch();
    launch
        .of(lossKernel("hidden_loss", hidden, 256), blocks, 1, 1, 256, 0)
        .with(loss)
        .with(dStudent)
        .with(partial)
        .with(student)
        .with(teacher)
        .with(batch.tokenCount())
        .with(weight)
        .launch();
  }

  private Kernel lossKernel(String entry, int hidden, int threads) {
    return kernels.get("span_loss.cu", entry, Map.of("HIDDEN", String.valueOf(hidden)), threads);
  }

  void chooseMask(Tensor weight, Tensor mask) {
    long groups = weight.elements() / 4;
    launch
        .of(
            kernels.get("adamw.cu", "choose_mask", Map.of(), 256),
            Math.ceilDiv(groups, 256L),
            1,
            1,
            256,
            0)
        .with(mask)
        .with(weight)
        .with(groups)
        .launch();
  }

  /** The compute copy without what the mask prunes. */
  void roundKept(Parameter parameter) {
    long elements = parameter.value().elements();
    Kernel round = kernels.get("adamw.cu", "round_kept", Map.of(), 256);
    launch
        .of(round, Math.min(round.blocks(), Math.ceilDiv(elements, 256L)), 1, 1, 256, 0)
        .with(parameter.compute())
        .with(parameter.value())
        .with(parameter.mask())
        .with(elements)
        .launch();
  }

  void adamW(List<Parameter> parameters, AdamW settings, int step, Tensor norm) {
    requireTraining();
    join();
    if (!recording) {
      set(new StepScalars(hostScalars.get(JAVA_INT, 0), settings, step));
    }
    Pieces table = pieces(parameters);
    Kernel squares = kernels.get("adamw.cu", "gradient_squares", Map.of(), 256);
    Kernel update = kernels.get("adamw.cu", "adamw", Map.of(), 256);
    int blocks = Math.min(table.count, Math.min(squares.blocks(), update.blocks()));
    long partial = scratch(4L * blocks);
    launch
        .of(squares, blocks, 1, 1, 256, 0)
        .with(partial)
        .with(table.address)
        .with(table.count)
        .with(scalars)
        .launch();
    launch
        .of(update, blocks, 1, 1, 256, 0)
        .with(norm)
        .with(partial)
        .with(table.address)
        .with(table.count)
        .with(scalars)
        .launch();
  }

  private Pieces pieces(List<Parameter> parameters) {
    List<Long> key = new ArrayList<>(7 * parameters.size());
    int count = 0;
    for (Parameter each : parameters) {
      key.add(address(each.value()));
      key.add(address(each.compute()));
      key.add(address(each.gradient()));
      key.add(address(each.firstMoment()));
      key.add(address(each.secondMoment()));
      key.add(addressOrNone(each.mask()));
      key.add(each.value().elements());
      count += Math.toIntExact(Math.ceilDiv(each.value().elements(), (long) PIECE_ELEMENTS));
    }
    Pieces found = pieces.get(key);
    if (found != null) {
      return found;
    }
    if (recording) {
      throw new IllegalStateException("parameters moved while a step was recorded");
    }
    try (Arena scratchArena = Arena.ofConfined()) {
      MemorySegment host = scratchArena.allocate((long) count * PIECE_BYTES, 8);
      long at = 0;
      for (Parameter each : parameters) {
        for (long from = 0; from < each.value().elements(); from += PIECE_ELEMENTS) {
          at = putPiece(host, at, each, from);
        }
      }
      long address = allocate(host.byteSize());
      CudaDriver.copyToDevice(address, host.address(), host.byteSize(), context.stream());
      context.synchronize();
      Pieces made = new Pieces(address, count);
      pieces.put(key, made);
      return made;
    }
  }

  /** One {@code Piece} of adamw.cu; returns where the next goes. */
  private static long putPiece(MemorySegment host, long at, Parameter parameter, long from) {
    long[] words = {
      address(parameter.value()) + 4 * from,
      address(parameter.gradient()) + 4 * from,
      address(parameter.firstMoment()) + 4 * from,
      address(parameter.secondMoment()) + 4 * from,
      address(parameter.compute()) + 2 * from,
      parameter.mask() == null ? 0 : address(parameter.mask()) + from,
      Math.min(PIECE_ELEMENTS, parameter.value().elements() - from)
    };
    MemorySegment.copy(words, 0, host, JAVA_LONG, at, words.length);
    return at + PIECE_BYTES;
  }

  /** The types that activations and logits have in training. */
  static boolean isFloat(Tensor tensor) {
    return tensor.dtype() == DType.F32;
  }

  @Override
  public void close() {
    owned.forEach(context::free);
    CudaDriver.destroyEvent(forked);
    CudaDriver.destroyEvent(joined);
    CudaDriver.destroyStream(sideStream);
    OpenResources.closed();
    OpenResources.closed();
    OpenResources.closed();
    arena.close();
  }
}
