package dev.halve.core.sparse;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;

/**
 * A weight of two regions, rows that are dense and rows that are 2:4: one weight, two products. The
 * format of "Spense" (arXiv 2606.10445); here rows stay in their places and belong to a region by
 * blocks of {@link #BLOCK_ROWS}, so that a product writes its outputs side by side.
 *
 * @param shape {@code [out, in]}, in a multiple of 4
 * @param denseBlocks U8 {@code [ceil(out / 16)]}: 1 where a block of rows is dense, else 0; at
 *     least one of each
 * @param dense the rows of the dense blocks, in order, {@code [dense rows, in]}
 * @param sparse the others, in order
 */
public record HybridTensor(
    Shape shape, Tensor denseBlocks, Tensor dense, SparseSemiStructuredTensor sparse) {
  /** Neighbouring rows that are dense or 2:4 together; the last block may have fewer. */
  public static final int BLOCK_ROWS = 16;

  /**
   * Rows that lie one after another and belong to one region.
   *
   * @param first in the whole weight
   * @param stored the first one in the region's own tensor
   */
  public record Run(boolean isDense, long first, long rows, long stored) {}

  /**
   * @throws HalveException if the parts do not fit each other
   */
  public HybridTensor {
    if (shape.rank() != 2) {
      throw new HalveException("a hybrid weight is [out, in], found " + shape);
    }
    long out = shape.extent(0);
    Shape blocks = Shape.of(blocks(out));
    if (denseBlocks.dtype() != DType.U8 || !denseBlocks.shape().equals(blocks)) {
      throw new HalveException("dense blocks are " + denseBlocks + "; expected U8 " + blocks);
    }
    long denseRows = 0;
    for (long block = 0; block < blocks.extent(0); block++) {
      byte flag = denseBlocks.segment().get(ValueLayout.JAVA_BYTE, block);
      if (flag != 0 && flag != 1) {
        throw new HalveException("dense block " + block + " is " + flag + "; expected 0 or 1");
      }
      denseRows += flag * rows(block, out);
    }
    long in = shape.extent(1);
    if (!dense.shape().equals(Shape.of(denseRows, in))
        || !sparse.shape().equals(Shape.of(out - denseRows, in))
        || dense.dtype() != sparse.values().dtype()) {
      throw new HalveException(
          "a hybrid weight %s of %d dense rows has dense %s and 2:4 %s"
              .formatted(shape, denseRows, dense, sparse.shape()));
    }
  }

  private static long blocks(long out) {
    return Math.ceilDiv(out, BLOCK_ROWS);
  }

  private static long rows(long block, long out) {
    return Math.min(BLOCK_ROWS, out - block * BLOCK_ROWS);
  }

  /**
   * Whether some blocks of a host weight are 2:4 and some are not, that is, whether {@link
   * #compress} takes it.
   */
  public static boolean fits(Tensor weight) {
    if (weight.shape().rank() != 2 || weight.extent(1) % 4 != 0) {
      return false;
    }
    long sparse = 0;
    for (long block = 0; block < blocks(weight.extent(0)); block++) {
      sparse += isSparse(weight, block) ? 1 : 0;
    }
    return sparse > 0 && sparse < blocks(weight.extent(0));
  }

  private static boolean isSparse(Tensor weight, long block) {
    long rows = rows(block, weight.extent(0));
    return SparsityPattern.of(weight.rows(block * BLOCK_ROWS, rows)).semiStructured();
  }

  /**
   * Compresses a dense host weight, every block of rows that is 2:4; the arena owns the result.
   *
   * @throws HalveException if all blocks are 2:4 or none is, or an element is NaN
   */
  public static HybridTensor compress(Arena arena, Tensor weight) {
    if (!fits(weight)) {
      throw new HalveException("the weight " + weight + " has no rows that are 2:4 beside others");
    }
    long out = weight.extent(0);
    Tensor denseBlocks = Tensor.allocate(arena, DType.U8, blocks(out));
    List<Tensor> dense = new ArrayList<>();
    List<Tensor> sparse = new ArrayList<>();
    for (long block = 0; block < blocks(out); block++) {
      boolean isDense = !isSparse(weight, block);
      Tensor rows = weight.rows(block * BLOCK_ROWS, rows(block, out));
      (isDense ? dense : sparse).add(rows);
      denseBlocks.segment().set(ValueLayout.JAVA_BYTE, block, (byte) (isDense ? 1 : 0));
    }
    try (Arena scratch = Arena.ofConfined()) {
      return new HybridTensor(
          weight.shape(),
          denseBlocks,
          stack(arena, dense).requireNoNaN("the weight"),
          SparseSemiStructuredTensor.compress(arena, stack(scratch, sparse)));
    }
  }

  private static Tensor stack(Arena arena, List<Tensor> parts) {
    long rows = parts.stream().mapToLong(part -> part.extent(0)).sum();
    Tensor all = Tensor.allocate(arena, parts.getFirst().dtype(), rows, parts.getFirst().extent(1));
    long row = 0;
    for (Tensor part : parts) {
      all.rows(row, part.extent(0)).copyFrom(part);
      row += part.extent(0);
    }
    return all;
  }

  /** The regions' rows in the order of the whole weight. */
  public List<Run> runs() {
    List<Run> runs = new ArrayList<>();
    long[] stored = new long[2];
    long out = shape.extent(0);
    for (long block = 0; block < blocks(out); block++) {
      int flag = denseBlocks.segment().get(ValueLayout.JAVA_BYTE, block);
      long rows = rows(block, out);
      if (!runs.isEmpty() && runs.getLast().isDense() == (flag == 1)) {
        Run last = runs.removeLast();
        runs.add(new Run(flag == 1, last.first(), last.rows() + rows, last.stored()));
      } else {
        runs.add(new Run(flag == 1, block * BLOCK_ROWS, rows, stored[flag]));
      }
      stored[flag] += rows;
    }
    return runs;
  }

  /** The dense host weight {@code [out, in]}, owned by the arena; bit for bit what it was. */
  public Tensor decompress(Arena arena) {
    Tensor whole = Tensor.allocate(arena, dense.dtype(), shape.extents());
    try (Arena scratch = Arena.ofConfined()) {
      Tensor rest = sparse.decompress(scratch);
      for (Run run : runs()) {
        Tensor from = run.isDense() ? dense : rest;
        whole.rows(run.first(), run.rows()).copyFrom(from.rows(run.stored(), run.rows()));
      }
    }
    return whole;
  }

  /** Bytes of all parts together. */
  public long bytes() {
    return denseBlocks.bytes() + dense.bytes() + sparse.bytes();
  }

  /** The 2:4 rows of a run, views of this tensor's memory. */
  public SparseSemiStructuredTensor sparse(Run run) {
    return new SparseSemiStructuredTensor(
        Shape.of(run.rows(), shape.extent(1)),
        sparse.values().rows(run.stored(), run.rows()),
        sparse.metadata().rows(run.stored(), run.rows()));
  }
}
