package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/**
 * Scratch memory of one step: a stack that is pushed by {@link #take} and popped by {@link
 * #release}. Its chunks are kept, so that a step like the last one allocates nothing. What is taken
 * holds whatever was there before. Not for sharing between threads.
 */
public final class Workspace implements AutoCloseable {
  private static final long CHUNK_BYTES = 64L << 20;

  private final Device device;
  private final Pool pool;
  private final List<Tensor> chunks = new ArrayList<>();
  private int chunk;
  private long used;

  /** A place in the stack, as {@link #mark} gives it. */
  public record Mark(int chunk, long used) {}

  public Workspace(Device device) {
    this.device = device;
    this.pool = device.openPool();
  }

  public Device device() {
    return device;
  }

  /** A tensor whose contents are undefined, valid until its place in the stack is released. */
  public Tensor take(DType dtype, long... extents) {
    Shape shape = Shape.of(extents);
    long bytes = shape.elements() * dtype.bytes();
    long padded = (bytes + Tensor.ALIGNMENT - 1) / Tensor.ALIGNMENT * Tensor.ALIGNMENT;
    while (chunk < chunks.size() && used + padded > chunks.get(chunk).bytes()) {
      chunk++;
      used = 0;
    }
    if (chunk == chunks.size()) {
      chunks.add(pool.allocate(DType.U8, Math.max(padded, CHUNK_BYTES)));
      used = 0;
    }
    MemorySegment whole = chunks.get(chunk).segment();
    MemorySegment part =
        whole.byteSize() == 0
            ? MemorySegment.ofAddress(whole.address() + used)
            : whole.asSlice(used, bytes);
    used += padded;
    return new Tensor(dtype, shape, part);
  }

  /** A tensor of the device's compute type. */
  public Tensor take(long... extents) {
    return take(device.computeType(), extents);
  }

  public Mark mark() {
    return new Mark(chunk, used);
  }

  /** Pops everything taken since the mark. */
  public void release(Mark mark) {
    chunk = mark.chunk;
    used = mark.used;
  }

  /** Pops everything. */
  public void reset() {
    chunk = 0;
    used = 0;
  }

  @Override
  public void close() {
    pool.close();
    chunks.clear();
    reset();
  }
}
