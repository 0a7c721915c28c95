package dev.halve.cpu;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.engine.Pool;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * A dense weight in stripes of as many rows as a dense tile has; within a stripe, input by input,
 * the weights of its rows side by side.
 */
final class PackedDenseWeight implements PackedMatrix {
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

  private final int rows;
  private final int columns;
  private final MemorySegment segment;
  private final TileKernels kernels;

  private PackedDenseWeight(int rows, int columns, MemorySegment segment, TileKernels kernels) {
    this.rows = rows;
    this.columns = columns;
    this.segment = segment;
    this.kernels = kernels;
  }

  /** Packs a host F32 weight {@code [rows, columns]} into memory of the pool. */
  static PackedDenseWeight pack(Pool pool, Tensor weight, TileKernels kernels) {
    int rows = Math.toIntExact(weight.extent(0));
    int columns = Math.toIntExact(weight.extent(1));
    int stripeRows = kernels.rows();
    long stripes = (rows + stripeRows - 1) / stripeRows;
    Tensor packed = pool.allocate(DType.F32, stripes, columns, stripeRows);
    for (int row = 0; row < rows; row++) {
      long to = (long) (row / stripeRows) * columns * stripeRows + row % stripeRows;
      for (int column = 0; column < columns; column++) {
        packed
            .segment()
            .setAtIndex(
                FLOAT,
                to + (long) column * stripeRows,
                weight.segment().getAtIndex(FLOAT, (long) row * columns + column));
      }
    }
    return new PackedDenseWeight(rows, columns, packed.segment(), kernels);
  }

  @Override
  public int rows() {
    return rows;
  }

  @Override
  public int columns() {
    return columns;
  }

  @Override
  public int stripeRows() {
    return kernels.rows();
  }

  @Override
  public long stripe(int index) {
    return segment.address() + index * stepPitch() * columns;
  }

  @Override
  public long stepPitch() {
    return kernels.rows() * (long) Float.BYTES;
  }

  @Override
  public int stepColumns() {
    return 1;
  }

  @Override
  public TileKernels kernels() {
    return kernels;
  }

  @Override
  public long bytes() {
    return segment.byteSize();
  }
}
