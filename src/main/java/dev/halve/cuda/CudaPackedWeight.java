package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.PackedWeight;
import java.lang.foreign.Arena;

/**
 * A 2:4 weight in device memory, as {@link SparseGemmLayout} lays it out.
 *
 * @param address of the packed operand; the pool it was packed into owns it
 */
record CudaPackedWeight(CudaContext context, SparseGemmLayout layout, DType dtype, long address)
    implements PackedWeight {
  /** Packs a weight and copies it up. */
  static CudaPackedWeight pack(
      CudaContext context, CudaPool pool, DType dtype, SparseSemiStructuredTensor weight) {
    SparseGemmLayout layout = SparseGemmLayout.of(weight.shape());
    try (Arena arena = Arena.ofConfined()) {
      SparseSemiStructuredTensor typed = weight;
      if (weight.values().dtype() != dtype) {
        Tensor values = Tensor.allocate(arena, dtype, weight.values().shape().extents());
        values.copyFrom(weight.values());
        typed = new SparseSemiStructuredTensor(weight.shape(), values, weight.metadata());
      }
      Tensor packed = Tensor.allocate(arena, DType.U8, layout.bytes());
      layout.pack(typed, packed.segment());
      long address = pool.allocate(layout.bytes());
      CudaDriver.copyToDevice(
          address, packed.segment().address(), layout.bytes(), context.stream());
      context.synchronize();
      return new CudaPackedWeight(context, layout, dtype, address);
    }
  }

  Shape shape() {
    return Shape.of(layout.out(), layout.in());
  }

  @Override
  public long bytes() {
    return layout.bytes();
  }

  @Override
  public SparseSemiStructuredTensor unpack(Arena arena) {
    try (Arena scratch = Arena.ofConfined()) {
      Tensor packed = Tensor.allocate(scratch, DType.U8, layout.bytes());
      context.makeCurrent();
      CudaDriver.copyToHost(packed.segment().address(), address, layout.bytes(), context.stream());
      context.synchronize();
      return layout.unpack(arena, dtype, packed.segment());
    }
  }
}
