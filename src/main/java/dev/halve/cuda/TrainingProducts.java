package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;
import static dev.halve.cuda.CudaTraining.requireEights;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.engine.Linear;
import dev.halve.engine.Parameter;
import dev.halve.engine.Weight;
import java.util.List;

/** The gradients of products, through cuBLASLt. */
final class TrainingProducts implements AutoCloseable {
  private final CudaContext context;
  private final CudaTraining training;
  private final CublasProducts cublas;
  private final long workspace;
  private final long sideWorkspace;

  /**
   * @param cublas null where cuBLASLt is missing; then products have no gradients
   */
  TrainingProducts(CudaContext context, CudaTraining training, CublasProducts cublas) {
    this.context = context;
    this.training = training;
    this.cublas = cublas;
    this.workspace = context.allocate(cublas == null ? 1 : CublasLt.WORKSPACE_BYTES);
    this.sideWorkspace = context.allocate(cublas == null ? 1 : CublasLt.WORKSPACE_BYTES);
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

  /** The weight's parameter; null where it is for inference only. */
  static Parameter parameter(Linear linear) {
    return linear.weight() instanceof Weight.Trainable trainable ? trainable.parameter() : null;
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
   * A product whose gradients are wanted, {@code y = x · weightᵀ + bias}.
   *
   * @param x address of {@code [tokens, in]}
   * @param weight address of {@code [out, in]}
   * @param dY address of the first of its columns, rows {@code pitch} elements apart
   */
  record Product(long x, int tokens, int in, long weight, int out, long dY, int pitch) {}

  /**
   * Queues the weight's gradient on a second stream, beside what follows on the first, until {@link
   * CudaTraining#join}: it fills the multiprocessors that the other leaves idle, and has them while
   * the other waits for memory. {@code x} and {@code dY} stay as they are until then, as {@code
   * Device.linearBackward} says.
   *
   * @param dWeights which lie one after another
   */
  void weightGradient(Product p, List<Tensor> dWeights) {
    check(p);
    training.joinSide();
    boolean add = !training.stale().take(dWeights);
    long dWeight = address(dWeights.getFirst());
    training.fork();
    cublas.multiply(
        CublasLt.Form.weightGradient(p.tokens, p.out, p.in, p.pitch, add),
        TokenBuckets.roundUp(p.tokens),
        new CublasProducts.Operands(p.x, p.dY, 0, add ? dWeight : 0, dWeight),
        sideWorkspace,
        training.sideStream());
    training.forkEnds();
  }

  /**
   * Queues {@code products += xᵀ · x}.
   *
   * @param x address of {@code [tokens, in]}
   * @param products address of fp32 {@code [in, in]}
   */
  void addGram(long x, int tokens, int in, long products) {
    requireEights(in);
    requireCublas("calibration");
    cublas.multiply(
        CublasLt.Form.weightGradient(tokens, in, in, in, true),
        TokenBuckets.roundUp(tokens),
        new CublasProducts.Operands(x, x, 0, products, products),
        workspace,
        context.stream());
  }

  /** Queues {@code dX (+)= dY · weight}. */
  void inputGradient(Product p, long dX, boolean add) {
    check(p);
    cublas.multiply(
        CublasLt.Form.inputGradient(p.tokens, p.out, p.in, p.pitch, add),
        TokenBuckets.roundUp(p.tokens),
        new CublasProducts.Operands(p.weight, p.dY, 0, add ? dX : 0, dX),
        workspace,
        context.stream());
  }

  /** Adds to the bias's gradient. */
  void biasGradient(Product p, Tensor dBias) {
    training.sums().add(p.dY, p.pitch, p.out, p.tokens, address(dBias));
  }

  private void check(Product p) {
    training.requireTraining();
    requireEights(p.in);
    requireEights(p.out);
    requireCublas("training");
  }

  private void requireCublas(String work) {
    if (cublas == null) {
      throw new HalveException(
          work
              + " on the GPU needs cuBLASLt, which comes with a CUDA toolkit; install one, or use"
              + " --device cpu");
    }
  }

  @Override
  public void close() {
    context.free(workspace);
    context.free(sideWorkspace);
  }
}
