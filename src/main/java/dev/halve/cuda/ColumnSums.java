package dev.halve.cuda;

import dev.halve.cuda.KernelLaunch.Kernel;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * Sums over tokens, such as the gradients of biases: partial sums by part of the tokens, added up
 * in their order. The adding up is small and nobody waits for it: it goes along with the next work
 * on the side stream, or with what joins the streams.
 */
final class ColumnSums {
  private final CudaTraining training;
  private final Kernels kernels;
  private final KernelLaunch launch;
  private final int multiprocessors;
  private final Buffer[] buffers = {new Buffer(0, 0), new Buffer(0, 0)};
  private final List<Addition> waiting = new ArrayList<>();
  private int filling;
  private long used;

  private record Buffer(long address, long bytes) {}

  private record Addition(long partial, int pitch, int width, int parts, long[] outputs) {}

  ColumnSums(CudaTraining training, Kernels kernels, KernelLaunch launch, int multiprocessors) {
    this.training = training;
    this.kernels = kernels;
    this.launch = launch;
    this.multiprocessors = multiprocessors;
  }

  /** Room for partial sums of so many columns by so many parts, until they have been added up. */
  long partial(int parts, int width) {
    long bytes = Math.ceilDiv(4L * parts * width, 256L) * 256;
    if (used + bytes > buffers[filling].bytes) {
      // Work that comes again, to be recorded, finds room for all of it, whichever buffer it fills.
      long size = Math.max(used + bytes, 2 * buffers[filling].bytes);
      for (int i = 0; i < buffers.length; i++) {
        buffers[i] = new Buffer(training.allocate(size), size);
      }
    }
    used += bytes;
    return buffers[filling].address + used - bytes;
  }

  /**
   * Has partial sums added up that lie side by side, {@code width} columns for each of the outputs.
   *
   * @param outputs addresses of fp32 {@code [width]}, at most three; 0 for one that is not wanted
   */
  void addPartials(long partial, int pitch, int width, int parts, long... outputs) {
    waiting.add(new Addition(partial, pitch, width, parts, outputs));
  }

  /** Leaves undone what waits. */
  void forget() {
    waiting.clear();
    used = 0;
  }

  /** Queues the additions that wait. */
  void launch(long stream) {
    if (waiting.isEmpty()) {
      return;
    }
    Kernel kernel = kernels.get("column_sums.cu", "add_partials", Map.of(), 1024);
    for (Addition each : waiting) {
      launch.of(kernel, Math.ceilDiv(each.width, 32), each.outputs.length, 1).on(stream);
      for (int i = 0; i < 3; i++) {
        launch.with(i < each.outputs.length ? each.outputs[i] : 0);
      }
      launch.with(each.partial).with(each.pitch).with(each.width).with(each.parts).launch();
    }
    waiting.clear();
    // These may still be read when the next are made; by the next but one the streams have joined.
    filling = 1 - filling;
    used = 0;
  }

  /** Blocks along the tokens for kernels that take 64 columns a block. */
  int tokenParts(int width, int tokens) {
    int wanted = Math.ceilDiv(8 * multiprocessors, Math.ceilDiv(width, 64));
    return Math.clamp(wanted, 1, Math.ceilDiv(tokens, 32));
  }

  /**
   * Adds the sums of {@code x [tokens, width]}.
   *
   * @param pitch elements from one row of x to the next
   * @param sums fp32 {@code [width]}
   */
  void add(long x, int pitch, int width, int tokens, long sums) {
    int parts = tokenParts(width, tokens);
    long partial = partial(parts, width);
    launch
        .of(
            kernels.get("column_sums.cu", "column_sums", Map.of(), 256),
            Math.ceilDiv(width, 64),
            parts,
            1)
        .with(partial)
        .with(x)
        .with(pitch)
        .with(width)
        .with(tokens)
        .launch();
    addPartials(partial, width, width, parts, sums);
  }
}
