package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;
import static dev.halve.cuda.CudaDevice.extent;

import dev.halve.core.Tensor;
import dev.halve.cuda.KernelLaunch.Kernel;
import dev.halve.cuda.Operations.Kept;
import dev.halve.cuda.Operations.Rows;
import dev.halve.engine.DeviceBatch;
import dev.halve.engine.Dropout;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.Map;

/** Self-attention that keeps what its gradients need, and the gradients. */
final class TrainingAttention {
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final Operations operations;
  private final CudaTraining training;
  private final boolean hopper;

  TrainingAttention(
      Kernels kernels,
      KernelLaunch launch,
      Operations operations,
      CudaTraining training,
      boolean hopper) {
    this.kernels = kernels;
    this.launch = launch;
    this.operations = operations;
    this.training = training;
    this.hopper = hopper;
  }

  void forward(
      Tensor qkv, DeviceBatch batch, int heads, Dropout dropout, Tensor logSumExp, Tensor out) {
    training.requireTraining();
    int headSize = extent(out, 1) / heads;
    Kept kept = new Kept(address(logSumExp), training.site(dropout), !dropout.isNone());
    Rows rows = Rows.of(batch);
    if (hopper) {
      operations.attentionSm90(address(out), address(qkv), rows, heads, headSize, kept);
    } else {
      operations.attentionSm80(address(out), address(qkv), rows, heads, headSize, kept);
    }
  }

  void backward(
      Tensor qkv,
      DeviceBatch batch,
      int heads,
      Dropout dropout,
      Tensor logSumExp,
      Tensor out,
      Tensor dOut,
      Tensor dQkv,
      List<Tensor> dBiases) {
    training.requireTraining();
    int hidden = extent(out, 1);
    int headSize = hidden / heads;
    Kernel kernel = backwardKernel(headSize, dropout);
    int rowSums = hopper ? 8 : 0;
    int parts = rowSums * batch.rows();
    long partial = hopper ? training.sums().partial(parts, 3 * hidden) : 0;
    int keys = 128;
    // On Hopper a row has room for whole blocks of 64 queries.
    long queries = batch.tokens() + (hopper ? 64L * batch.rows() : 0);
    long waiting = batch.longestRow() > keys ? 4 * queries * hidden : 0;
    long delta = training.scratch(4L * batch.tokens() * heads + 256 + waiting);
    long dQuery = delta + Math.ceilDiv(4L * batch.tokens() * heads, 256L) * 256;
    long chunks = out.elements() / 8;
    launch
        .of(
            kernels.get(
                "attention_backward.cu", "attention_delta", definitions(headSize, dropout), 256),
            Math.ceilDiv(chunks, 256L))
        .overlapping(training.overlaps())
        .with(delta)
        .with(out)
        .with(dOut)
        .with(chunks)
        .with(partial)
        .with(3L * hidden * parts)
        .launch();
    float scale = (float) (1 / Math.sqrt(headSize));
    MemorySegment site = training.site(dropout);
    if (hopper) {
      int blocks = Math.min(kernel.blocks(), heads * batch.rows());
      try (Arena arena = Arena.ofConfined()) {
        launch
            .of(kernel, blocks)
            .overlapping(training.overlaps())
            .with(dQkv)
            .with(dQuery)
            .with(partial)
            .with(Operations.headMap(arena, address(qkv), 3 * hidden, batch.tokens(), headSize))
            .with(Operations.headMap(arena, address(dOut), hidden, batch.tokens(), headSize))
            .with(logSumExp)
            .with(delta)
            .with(batch.rowOffsets())
            .with(batch.rows())
            .with(heads)
            .with(scale)
            .with(site)
            .launch();
      }
      training
          .sums()
          .addPartials(
              partial,
              3 * hidden,
              hidden,
              parts,
              dBiases.stream().mapToLong(CudaDevice::address).toArray());
      return;
    }
    for (Rows some : Rows.of(batch).launches()) {
      launch
          .of(kernel, heads, some.count(), 1)
          .with(dQkv)
          .with(dQuery)
          .with(qkv)
          .with(dOut)
          .with(logSumExp)
          .with(delta)
          .with(some.rowOffsets())
          .with(heads)
          .with(scale)
          .with(site)
          .launch();
    }
    for (int i = 0; i < dBiases.size(); i++) {
      long from = address(dQkv) + 2L * hidden * i;
      training.sums().add(from, 3 * hidden, hidden, batch.tokens(), address(dBiases.get(i)));
    }
  }

  /** Of attention_backward.cu. */
  private static Map<String, String> definitions(int headSize, Dropout dropout) {
    return Map.of(
        "HEAD", String.valueOf(headSize),
        "WARPS", "4",
        "DROPOUT", CudaTraining.flag(!dropout.isNone()));
  }

  /** Both take 128 keys at a time. */
  private Kernel backwardKernel(int headSize, Dropout dropout) {
    int rowBytes = 2 * headSize;
    if (hopper) {
      int block = 64;
      int keySlots = 4;
      int stages = 4;
      int scores = 2 * block * 128;
      int sorted = 1024;
      int barriers = 2048;
      int shared =
          keySlots * 2 * block * rowBytes
              + stages * (block * (2 * rowBytes + 12) + scores)
              + 2 * sorted
              + barriers;
      Map<String, String> definitions =
          Map.of(
              "HEAD", String.valueOf(headSize),
              "DROPOUT", CudaTraining.flag(!dropout.isNone()));
      return kernels.get(
          "attention_backward_sm90.cu", "attention_backward_sm90", definitions, 512, shared);
    }
    int queries = 32;
    int stage = queries * (2 * rowBytes + 12);
    int shared = 2 * 128 * rowBytes + 128 * queries * 2 + 2 * stage;
    return kernels.get(
        "attention_backward.cu", "attention_backward", definitions(headSize, dropout), 128, shared);
  }
}
