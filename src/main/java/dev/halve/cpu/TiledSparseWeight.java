package dev.halve.cpu;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.Pool;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * A 2:4 weight in blocks of 16 rows by 16 columns, which tiles of few tokens read, for all vector
 * widths. A block holds eight nonzeros of each row, 576 bytes:
 *
 * <pre>
 * int indices[16]       row r: nibble n is the column, within the block, of the row's nonzero n
 * float values[8][16]   nonzero n of row r
 * </pre>
 *
 * Blocks follow one another along the columns, then along the rows. So a product streams through
 * memory once, at 0.5625 of the dense weight's bytes. Nonzeros {@code 2g} and {@code 2g + 1} are
 * group {@code g}'s, so the two low bits of a nibble are the position within the group. Rows and
 * columns past the last ones are zeros at valid positions.
 */
final class TiledSparseWeight {
  /** Rows and columns of a block. */
  static final int BLOCK = 16;

  /** Nonzeros of a row in a block. */
  static final int NONZEROS = BLOCK / 2;

  /** Bits of a nonzero's column. */
  static final int INDEX_BITS = 4;

  static final long BLOCK_BYTES = BLOCK * (Integer.BYTES + NONZEROS * (long) Float.BYTES);

  private static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT;
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

  private final int rows;
  private final int columns;
  private final int columnBlocks;
  private final MemorySegment segment;

  private TiledSparseWeight(int rows, int columns, MemorySegment segment) {
    this.rows = rows;
    this.columns = columns;
    this.columnBlocks = blocks(columns);
    this.segment = segment;
  }

  /** Packs a compressed weight into memory of the pool. */
  static TiledSparseWeight pack(Pool pool, SparseSemiStructuredTensor weight) {
    int rows = Math.toIntExact(weight.shape().extent(0));
    int columns = Math.toIntExact(weight.shape().extent(1));
    long bytes = (long) blocks(rows) * blocks(columns) * BLOCK_BYTES;
    MemorySegment segment = pool.allocate(DType.U8, bytes).segment();
    TiledSparseWeight packed = new TiledSparseWeight(rows, columns, segment);
    packed.fill(weight);
    return packed;
  }

  private static int blocks(int count) {
    return (count + BLOCK - 1) / BLOCK;
  }

  /** Where a nonzero's value lies in a block. */
  static long valueOffset(int nonzero, int row) {
    return BLOCK * (long) Integer.BYTES + (nonzero * BLOCK + row) * (long) Float.BYTES;
  }

  private void fill(SparseSemiStructuredTensor weight) {
    Tensor values = weight.values();
    for (int row = 0; row < blocks(rows) * BLOCK; row++) {
      for (int columnBlock = 0; columnBlock < columnBlocks; columnBlock++) {
        long at = offset(row / BLOCK, columnBlock);
        int indices = 0;
        for (int group = 0; group < BLOCK / 4; group++) {
          int column = columnBlock * BLOCK + group * 4;
          int nibble = 0b0100;
          if (row < rows && column < columns) {
            nibble = weight.nibble(row, column / 4);
            for (int i = 0; i < 2; i++) {
              float value = values.getFloat(((long) row * columns + column) / 2 + i);
              segment.set(FLOAT, at + valueOffset(2 * group + i, row % BLOCK), value);
            }
          }
          int pairOfIndices = (4 * group + (nibble & 3)) | (4 * group + (nibble >> 2)) << 4;
          indices |= pairOfIndices << 8 * group;
        }
        segment.set(INT, at + row % BLOCK * (long) Integer.BYTES, indices);
      }
    }
  }

  private long offset(int rowBlock, int columnBlock) {
    return ((long) rowBlock * columnBlocks + columnBlock) * BLOCK_BYTES;
  }

  /** Outputs. */
  int rows() {
    return rows;
  }

  /** Inputs. */
  int columns() {
    return columns;
  }

  int rowBlocks() {
    return blocks(rows);
  }

  int columnBlocks() {
    return columnBlocks;
  }

  /** Address of a block. */
  long block(int rowBlock, int columnBlock) {
    return segment.address() + offset(rowBlock, columnBlock);
  }

  /** Bytes of a row block. */
  long rowBlockBytes() {
    return columnBlocks * BLOCK_BYTES;
  }

  long bytes() {
    return segment.byteSize();
  }
}
