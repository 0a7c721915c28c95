package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.engine.AdamW;
import dev.halve.engine.BatchShape;
import dev.halve.engine.Dropout;
import dev.halve.engine.StepScalars;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * What all operations of training share: the step's scalars in device memory ({@link #set}), so
 * that a recorded step can be replayed, a second stream, scratch memory. Activations are bf16,
 * products accumulate in fp32, gradients, master weights and moments are fp32; bf16 has the
 * exponents of fp32, so that gradients need no loss scaling. Every sum has a fixed order: the same
 * input gives the same bits.
 */
final class CudaTraining implements AutoCloseable {
  /** Seed and optimizer scalars, as {@code Scalars} in adamw.cu. */
  private static final int SCALAR_BYTES = 40;

  private static final int SITE_BYTES = 24;

  private final CudaContext context;
  private final Staging staging;
  private final boolean bfloat16;
  private final Arena arena = Arena.ofShared();
  private final MemorySegment site = arena.allocate(SITE_BYTES, 8);
  private final MemorySegment hostScalars = arena.allocate(SCALAR_BYTES, 8);
  private final long scalars;
  private final StaleGradients stale;
  private final SparseGradients sparse;
  private final ColumnSums sums;
  private final Scratch scratch;
  private final List<Long> owned = new ArrayList<>();
  private final long sideStream;
  private final long forked;
  private final long joined;
  private boolean outstanding;
  private boolean tablesOutstanding;

  CudaTraining(
      CudaContext context,
      Kernels kernels,
      KernelLaunch launch,
      Staging staging,
      boolean bfloat16) {
    this.context = context;
    this.sums = new ColumnSums(this, kernels, launch, context.properties().multiprocessors());
    this.staging = staging;
    this.bfloat16 = bfloat16;
    this.scratch = new Scratch(context);
    this.scalars = allocate(256);
    this.stale = new StaleGradients(context);
    this.sparse = new SparseGradients(context, this);
    this.sideStream = CudaDriver.createStream();
    this.forked = CudaDriver.createOrderingEvent();
    this.joined = CudaDriver.createOrderingEvent();
    OpenResources.opened();
    OpenResources.opened();
    OpenResources.opened();
  }

  /** Device memory that lives as long as this. */
  long allocate(long bytes) {
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
    return CudaGraph.record(
        context,
        () -> {
          work.run();
          join();
        });
  }

  ColumnSums sums() {
    return sums;
  }

  StaleGradients stale() {
    return stale;
  }

  SparseGradients sparse() {
    return sparse;
  }

  /** After something that is no part of a step has written a tensor. */
  void written(Tensor tensor) {
    stale.written(List.of(tensor));
    sparse.written(tensor);
  }

  /**
   * Whether kernels may start while the one before on the stream drains. For those alone that come
   * after nothing but that one: not after {@link #fork}, which waits for the other stream.
   */
  boolean overlaps() {
    return context.properties().isHopper();
  }

  /** Device memory for one operation at a time, as {@link Scratch} says. */
  long scratch(long bytes) {
    return scratch.take(bytes);
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

  /** Where the scalars lie, {@code Scalars} in adamw.cu. */
  long scalars() {
    return scalars;
  }

  /** Puts an optimizer's scalars there, unless the step has brought them. */
  void setOptimizer(AdamW settings, int step) {
    if (!context.recording()) {
      set(new StepScalars(hostScalars.get(JAVA_INT, 0), settings, step));
    }
  }

  /** A use of dropout as the kernels take it; {@code DropoutSite} in dropout.cuh. */
  MemorySegment site(Dropout dropout) {
    if (!dropout.isNone()
        && !context.recording()
        && hostScalars.get(JAVA_INT, 0) != dropout.stepSeed()) {
      // Outside a replay the operation brings its own seed.
      hostScalars.set(JAVA_INT, 0, dropout.stepSeed());
      staging.copy(hostScalars, scalars);
    }
    site.set(JAVA_LONG, 0, scalars);
    site.set(JAVA_INT, 8, Dropout.mix(dropout.site()));
    site.set(JAVA_INT, 12, dropout.threshold() << 16);
    site.set(JAVA_FLOAT, 16, dropout.scale());
    return site;
  }

  static String flag(boolean value) {
    return value ? "1" : "0";
  }

  static long addressOrNone(Tensor tensor) {
    return tensor == null ? 0 : address(tensor);
  }

  static void requireEights(int features) {
    if (features % 8 != 0) {
      throw new HalveException(
          "the GPU trains layers whose sizes are multiples of 8, found %d; use --device cpu"
              .formatted(features));
    }
  }

  /** Lets what is queued on {@link #sideStream} come after all that was queued before. */
  void fork() {
    joinSide();
    CudaDriver.record(forked, context.stream());
    CudaDriver.waitFor(forked, sideStream);
    sums.launch(sideStream);
  }

  long sideStream() {
    return sideStream;
  }

  /** After the last work on {@link #sideStream}. */
  void forkEnds() {
    CudaDriver.record(joined, sideStream);
    outstanding = true;
    tablesOutstanding = false;
  }

  /** The same after work that makes no weights' gradients. */
  void tablesForkEnds() {
    forkEnds();
    tablesOutstanding = true;
  }

  /** Lets what is queued from now on come after the weights' gradients. */
  void joinWeights() {
    if (!tablesOutstanding) {
      joinSide();
    }
  }

  /** Lets what is queued from now on come after the work of the side stream, and after all sums. */
  void join() {
    joinSide();
    sums.launch(context.stream());
  }

  /**
   * After a step that has failed: its sums are not added up where something else may lie by now.
   */
  void abandon() {
    sums.forget();
    joinSide();
  }

  /** Lets what is queued from now on come after the work of the side stream. */
  void joinSide() {
    if (outstanding) {
      CudaDriver.waitFor(joined, context.stream());
      outstanding = false;
    }
  }

  /** The types that activations and logits have in training. */
  static boolean isFloat(Tensor tensor) {
    return tensor.dtype() == DType.F32;
  }

  @Override
  public void close() {
    owned.forEach(context::free);
    scratch.close();
    CudaDriver.destroyEvent(forked);
    CudaDriver.destroyEvent(joined);
    CudaDriver.destroyStream(sideStream);
    OpenResources.closed();
    OpenResources.closed();
    OpenResources.closed();
    arena.close();
  }
}
