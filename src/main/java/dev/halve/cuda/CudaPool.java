package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.engine.Pool;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.List;

/** Device memory from the driver's stream-ordered pool; freed in the order of the stream. */
final class CudaPool implements Pool {
  private final CudaContext context;
  private final List<Long> addresses = new ArrayList<>();

  CudaPool(CudaContext context) {
    this.context = context;
  }

  @Override
  public Tensor allocate(DType dtype, long... extents) {
    Shape shape = Shape.of(extents);
    Tensor tensor =
        new Tensor(
            dtype, shape, MemorySegment.ofAddress(allocate(shape.elements() * dtype.bytes())));
    if (tensor.bytes() > 0) {
      CudaDriver.fill(tensor.segment().address(), (byte) 0, tensor.bytes(), context.stream());
    }
    return tensor;
  }

  /** Device memory whose content is undefined, aligned to 256 bytes. */
  long allocate(long bytes) {
    context.makeCurrent();
    long address = context.allocate(bytes);
    addresses.add(address);
    return address;
  }

  @Override
  public void close() {
    if (!addresses.isEmpty()) {
      context.makeCurrent();
      addresses.forEach(context::free);
      addresses.clear();
    }
  }
}
