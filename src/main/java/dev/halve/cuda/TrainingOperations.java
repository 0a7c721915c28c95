package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;
import static dev.halve.cuda.CudaDevice.extent;
import static dev.halve.cuda.CudaTraining.addressOrNone;
import static dev.halve.cuda.CudaTraining.requireEights;

import dev.halve.core.Tensor;
import dev.halve.cuda.KernelLaunch.Kernel;
import dev.halve.engine.DeviceBatch;
import dev.halve.engine.Dropout;
import dev.halve.engine.Parameter;
import java.lang.foreign.MemorySegment;
import java.util.Map;

/** The kernels of training beside products, attention, losses and the optimizer. */
final class TrainingOperations {
  private final CudaTraining training;
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final ColumnSums sums;
  private final int multiprocessors;

  TrainingOperations(
      CudaTraining training, Kernels kernels, KernelLaunch launch, int multiprocessors) {
    this.training = training;
    this.kernels = kernels;
    this.launch = launch;
    this.sums = training.sums();
    this.multiprocessors = multiprocessors;
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
    training.requireTraining();
    int tokens = extent(x, 0);
    MemorySegment site = training.site(dropout);
    Kernel kernel = normKernel("dropout_residual_layer_norm", extent(x, 1), dropout);
    launch
        .of(kernel, Math.ceilDiv(tokens, 4))
        .overlapping(training.overlaps())
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
        Map.of("HIDDEN", String.valueOf(hidden), "DROPOUT", CudaTraining.flag(!dropout.isNone()));
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
    training.requireTraining();
    int tokens = extent(sum, 0);
    int hidden = extent(sum, 1);
    MemorySegment site = training.site(dropout);
    Kernel kernel = normKernel("layer_norm_backward", hidden, dropout);
    int blocks = perTokenBlocks(kernel, tokens);
    long partial = sums.partial(blocks, 3 * hidden);
    launch
        .of(kernel, blocks)
        .overlapping(training.overlaps())
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
    sums.addPartials(
        partial, 3 * hidden, hidden, blocks, address(dGamma), address(dBeta), addressOrNone(dBias));
  }

  /**
   * @param x address of {@code [tokens, width]}, as dY and dX, which may be dY
   * @param dBias address of fp32 {@code [width]}; 0 for none
   */
  void geluBackward(long x, long dY, long dX, int tokens, int width, long dBias) {
    training.requireTraining();
    requireEights(width);
    int parts = sums.tokenParts(width, tokens);
    long partial = dBias == 0 ? 0 : sums.partial(parts, width);
    Kernel kernel = kernels.get("column_sums.cu", "gelu_backward", Map.of(), 256);
    launch
        .of(kernel, Math.ceilDiv(width, 64), parts, 1)
        .with(partial)
        .with(dX)
        .with(x)
        .with(dY)
        .with(width)
        .with(tokens)
        .launch();
    if (dBias != 0) {
      sums.addPartials(partial, width, width, parts, dBias);
    }
  }

  void dropout(Tensor x, Dropout dropout, Tensor y) {
    training.requireTraining();
    requireEights(extent(x, 1));
    MemorySegment site = training.site(dropout);
    Kernel kernel = kernels.get("dropout.cu", "dropout", Map.of(), 256);
    launch
        .of(kernel, elementBlocks(kernel, x))
        .with(y)
        .with(x)
        .with(extent(x, 1))
        .with(x.elements())
        .with(site)
        .launch();
  }

  void add(Tensor x, Tensor y) {
    training.requireTraining();
    requireEights(extent(x, 1));
    Kernel kernel = kernels.get("dropout.cu", "add", Map.of(), 256);
    launch.of(kernel, elementBlocks(kernel, x)).with(y).with(x).with(x.elements()).launch();
  }

  static long elementBlocks(Kernel kernel, Tensor x) {
    return Math.clamp(Math.ceilDiv(x.elements(), 2048L), 1, kernel.blocks());
  }

  /** The gradients of a head with fp32 outputs. */
  void headBackward(
      Tensor x, Parameter weight, Tensor dY, Tensor dWeight, Tensor dBias, Tensor dX) {
    training.requireTraining();
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
    long partial = sums.partial(blocks, width);
    launch
        .of(kernel, blocks)
        .with(addressOrNone(dX))
        .with(partial)
        .with(x)
        .with(weight.compute())
        .with(dY)
        .with(tokens)
        .launch();
    sums.addPartials(partial, width, outputs * hidden, blocks, address(dWeight));
    sums.addPartials(partial + 4L * outputs * hidden, width, outputs, blocks, address(dBias));
  }

  void embedBackward(DeviceBatch batch, Tensor dOut, Tensor dWord, Tensor dPosition, Tensor dType) {
    training.requireTraining();
    int hidden = extent(dOut, 1);
    int types = extent(dType, 0);
    requireEights(hidden);
    Map<String, String> definitions =
        Map.of("HIDDEN", String.valueOf(hidden), "TYPES", String.valueOf(types));
    // Beside the optimizer's first pass over the weights, which waits for memory.
    training.fork();
    long stream = training.sideStream();
    launch
        .of(embeddingKernel("word_gradient", definitions), batch.tokens())
        .on(stream)
        .with(dWord)
        .with(training.sparse().states(dWord))
        .with(dOut)
        .with(batch.tokenIds())
        .with(batch.tokenCount())
        .launch();
    int positions = Math.min(batch.longestRow(), extent(dPosition, 0));
    launch
        .of(embeddingKernel("position_gradient", definitions), positions)
        .on(stream)
        .with(dPosition)
        .with(dOut)
        .with(batch.rowOffsets())
        .with(batch.rows())
        .with(batch.tokenCount())
        .launch();
    int parts = Math.min(2 * multiprocessors, Math.ceilDiv(batch.tokens(), 8));
    long partial = sums.partial(parts, types * hidden);
    launch
        .of(embeddingKernel("type_gradient", definitions), parts)
        .on(stream)
        .with(partial)
        .with(dOut)
        .with(batch.typeIds())
        .with(batch.tokenCount())
        .launch();
    sums.addPartials(partial, types * hidden, types * hidden, parts, address(dType));
    training.tablesForkEnds();
  }

  private Kernel embeddingKernel(String entry, Map<String, String> definitions) {
    return kernels.get("embeddings_backward.cu", entry, definitions, 128);
  }
}
