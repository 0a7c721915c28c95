package dev.halve.cuda;

import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;

/**
 * A device tensor that starts out as NaN in every floating type, between two guards: what a kernel
 * fails to write stays NaN, what it writes outside shows.
 */
final class Poisoned {
  private static final byte POISON = -1;
  private static final int GUARD = 4096;

  private final CudaDevice device;
  private final long base;
  private final Tensor tensor;

  Poisoned(CudaDevice device, CudaPool pool, DType dtype, long... extents) {
    this.device = device;
    Shape shape = Shape.of(extents);
    long bytes = shape.elements() * dtype.bytes();
    base = pool.allocate(bytes + 2 * GUARD);
    CudaDriver.fill(base, POISON, bytes + 2 * GUARD, device.context().stream());
    tensor = new Tensor(dtype, shape, MemorySegment.ofAddress(base + GUARD));
  }

  Tensor tensor() {
    return tensor;
  }

  long address() {
    return base + GUARD;
  }

  /** The content; fails if a guard was touched. */
  float[] read() {
    try (Arena arena = Arena.ofConfined()) {
      Tensor whole = Tensor.allocate(arena, DType.U8, tensor.bytes() + 2 * GUARD);
      device.download(new Tensor(DType.U8, whole.shape(), MemorySegment.ofAddress(base)), whole);
      for (long i = 0; i < GUARD; i++) {
        assertThat(whole.segment().get(JAVA_BYTE, i)).as("guard before").isEqualTo(POISON);
        assertThat(whole.segment().get(JAVA_BYTE, GUARD + tensor.bytes() + i))
            .as("guard after")
            .isEqualTo(POISON);
      }
      Tensor content =
          new Tensor(
              tensor.dtype(), tensor.shape(), whole.segment().asSlice(GUARD, tensor.bytes()));
      return content.toFloatArray();
    }
  }
}
