package dev.halve.cpu;

import dev.halve.core.DType;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.Pool;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.stream.IntStream;

/**
 * A 2:4 weight in the order in which {@link SparsePanelKernel}s read it. A 2:4 product has an input
 * to load for every multiply-add, where a dense one has an input for many rows, and so waits for
 * loads. Here two rows go together, which load an input once where both keep its column.
 *
 * <p>Rows come in groups of {@value #GROUP}, columns in chunks of {@value #CHUNK}. In a chunk a row
 * keeps half of the columns, and two random rows have half of those in common. The rows of a group
 * are paired anew for each chunk, and a pair takes a quarter as many passes as there are columns,
 * each with one column that both keep, one of the first row and one of the second; where its rows
 * have fewer in common it takes more, up to a third. Four pairs make a block:
 *
 * <pre>
 * short rows[8]           within the group: pair p is rows[2p] and rows[2p + 1]
 * int passes
 * byte common[4]          passes of pair p whose first column both rows keep: the first ones
 * each pass:
 *   float values[4][4]    of pair p: its rows' at the common column, the first's and the second's at their own
 *   byte columns[4][3]    within the chunk: the common one, the first row's, the second's
 * </pre>
 *
 * What a pass lacks is zeros at column 0. Blocks of a group and chunk follow one another, then the
 * chunks of a group, then the groups: 0.605 of the dense weight's bytes. A sum's terms come in an
 * order that is the weight's alone, so that no bit depends on how tokens are cut into panels.
 */
final class PairedSparseWeight {
  /** Rows among which pairs are made. */
  static final int GROUP = 64;

  /** Columns whose inputs stay in the first-level cache; what a row keeps of them is a long. */
  static final int CHUNK = Long.SIZE;

  /** Rows of a block. */
  static final int BLOCK = 8;

  /** Pairs of a block. */
  static final int PAIRS = BLOCK / 2;

  /** Where a block's number of passes lies. */
  static final int PASSES_AT = BLOCK * Short.BYTES;

  private static final int COMMON_AT = PASSES_AT + Integer.BYTES;

  /** Where a block's first pass lies. */
  static final int HEAD_BYTES = COMMON_AT + PAIRS;

  /** A pair's values of a pass. */
  static final int VALUES_BYTES = 4 * Float.BYTES;

  /** A pair's columns of a pass, a byte each. */
  static final int COLUMNS_BYTES = 3;

  /** Where a pass's columns lie. */
  static final int COLUMNS_AT = PAIRS * VALUES_BYTES;

  static final int PASS_BYTES = COLUMNS_AT + PAIRS * COLUMNS_BYTES;

  /** Kernels read three columns as an int. */
  private static final int MARGIN = Integer.BYTES - COLUMNS_BYTES;

  private final int rows;
  private final int columns;
  private final long[] offsets;
  private final MemorySegment segment;

  private PairedSparseWeight(int rows, int columns, long[] offsets, MemorySegment segment) {
    this.rows = rows;
    this.columns = columns;
    this.offsets = offsets;
    this.segment = segment;
  }

  /** Packs a compressed weight into memory of the pool. */
  static PairedSparseWeight pack(Pool pool, SparseSemiStructuredTensor weight) {
    int rows = Math.toIntExact(weight.shape().extent(0));
    int columns = Math.toIntExact(weight.shape().extent(1));
    int chunks = Math.ceilDiv(columns, CHUNK);
    Chunk[] packed = new Chunk[Math.ceilDiv(rows, GROUP) * chunks];
    long[] offsets = new long[packed.length + 1];
    for (int i = 0; i < packed.length; i++) {
      packed[i] = new Chunk(weight, i / chunks * GROUP, i % chunks * CHUNK);
      offsets[i + 1] = offsets[i] + packed[i].bytes();
    }
    MemorySegment segment = pool.allocate(DType.U8, offsets[packed.length] + MARGIN).segment();
    for (int i = 0; i < packed.length; i++) {
      packed[i].write(segment.asSlice(offsets[i], packed[i].bytes()));
    }
    return new PairedSparseWeight(rows, columns, offsets, segment);
  }

  /** The same in memory of another pool. */
  PairedSparseWeight copy(Pool pool) {
    MemorySegment copy = pool.allocate(DType.U8, segment.byteSize()).segment();
    copy.copyFrom(segment);
    return new PairedSparseWeight(rows, columns, offsets, copy);
  }

  /** The weight as it was before packing. */
  SparseSemiStructuredTensor unpack(Arena arena) {
    Tensor values = Tensor.allocate(arena, DType.F32, rows, columns / 2);
    Tensor metadata = Tensor.allocate(arena, DType.U8, rows, (columns + 7) / 8);
    for (int group = 0; group < groups(); group++) {
      for (int chunk = 0; chunk < chunks(); chunk++) {
        long block = offsets[group * chunks() + chunk];
        for (int i = 0; i < blocks(group); i++) {
          unpackBlock(block, group * GROUP, chunk * CHUNK, values, metadata);
          block += HEAD_BYTES + (long) passes(block) * PASS_BYTES;
        }
      }
    }
    return new SparseSemiStructuredTensor(Shape.of(rows, columns), values, metadata);
  }

  /** Columns of a chunk. */
  private int width(int firstColumn) {
    return Math.min(CHUNK, columns - firstColumn);
  }

  private int passes(long block) {
    return segment.get(ValueLayout.JAVA_INT_UNALIGNED, block + PASSES_AT);
  }

  private int row(long block, int i) {
    return segment.get(ValueLayout.JAVA_SHORT_UNALIGNED, block + i * (long) Short.BYTES);
  }

  private void unpackBlock(
      long block, int firstRow, int firstColumn, Tensor values, Tensor metadata) {
    float[] found = new float[CHUNK];
    for (int i = 0; i < BLOCK; i++) {
      int row = firstRow + row(block, i);
      if (row >= rows) {
        continue;
      }
      long kept = unpackRow(block, i, firstRow, firstColumn, found);
      long value = ((long) row * columns + firstColumn) / 2;
      for (long left = kept; left != 0; left &= left - 1) {
        values.setFloat(value++, found[Long.numberOfTrailingZeros(left)]);
      }
      for (int column = 0; column < width(firstColumn); column += 4) {
        int four = (int) (kept >>> column) & 0xF;
        int nibble =
            Integer.numberOfTrailingZeros(four)
                | Integer.numberOfTrailingZeros(four & four - 1) << 2;
        long at = row * metadata.extent(1) + (firstColumn + column) / 8;
        byte others = metadata.segment().get(ValueLayout.JAVA_BYTE, at);
        metadata.segment().set(ValueLayout.JAVA_BYTE, at, (byte) (others | nibble << (column & 4)));
      }
    }
  }

  /** A row's values at their columns; returns which columns those are, as bits. */
  private long unpackRow(long block, int i, int firstRow, int firstColumn, float[] found) {
    int member = i % 2;
    int pair = i / 2;
    int passes = passes(block);
    int common = segment.get(ValueLayout.JAVA_BYTE, block + COMMON_AT + pair);
    int own = Math.min(passes, width(firstColumn) / 2 - common);
    int spare = width(firstColumn) / 2 - common - own;
    // What the second row has left over stands behind what the first has, which is as much.
    int behind = member == 1 && firstRow + row(block, i - 1) < rows ? spare : 0;
    long kept = 0;
    for (int pass = 0; pass < passes; pass++) {
      int beyond = pass - common - behind;
      if (pass < common || beyond >= 0 && beyond < spare) {
        kept |= take(block, pass, pair, 0, member, found);
      }
      if (pass < own) {
        kept |= take(block, pass, pair, 1 + member, 2 + member, found);
      }
    }
    return kept;
  }

  private long take(long block, int pass, int pair, int place, int value, float[] found) {
    long at = block + HEAD_BYTES + (long) pass * PASS_BYTES;
    int column =
        segment.get(ValueLayout.JAVA_BYTE, at + COLUMNS_AT + (long) pair * COLUMNS_BYTES + place);
    found[column] =
        segment.get(
            ValueLayout.JAVA_FLOAT_UNALIGNED,
            at + (long) pair * VALUES_BYTES + value * (long) Float.BYTES);
    return 1L << column;
  }

  /** Outputs. */
  int rows() {
    return rows;
  }

  /** Inputs. */
  int columns() {
    return columns;
  }

  int groups() {
    return Math.ceilDiv(rows, GROUP);
  }

  int chunks() {
    return Math.ceilDiv(columns, CHUNK);
  }

  /** Blocks of a group, as many in each of its chunks. */
  int blocks(int group) {
    return Math.ceilDiv(Math.min(GROUP, rows - group * GROUP), BLOCK);
  }

  /** Address of a group's first block in a chunk. */
  long block(int group, int chunk) {
    return segment.address() + offsets[group * chunks() + chunk];
  }

  long bytes() {
    return segment.byteSize();
  }

  /** A group's rows in a chunk. */
  private static final class Chunk {
    private final SparseSemiStructuredTensor weight;
    private final int firstRow;
    private final int firstColumn;

    /** The columns that a row keeps, as bits; none of the rows that the last block lacks. */
    private final long[] kept;

    /** Rows, pair by pair. */
    private final int[] order;

    Chunk(SparseSemiStructuredTensor weight, int firstRow, int firstColumn) {
      this.weight = weight;
      this.firstRow = firstRow;
      this.firstColumn = firstColumn;
      int rows = (int) Math.min(GROUP, weight.shape().extent(0) - firstRow);
      kept = new long[Math.ceilDiv(rows, BLOCK) * BLOCK];
      for (int row = 0; row < rows; row++) {
        kept[row] = kept(row);
      }
      order = pairs();
    }

    private long kept(int row) {
      long end = Math.min(CHUNK, weight.shape().extent(1) - firstColumn);
      long kept = 0;
      for (int column = 0; column < end; column += 4) {
        int nibble = weight.nibble(firstRow + row, (firstColumn + column) / 4);
        kept |= (1L << (nibble & 3) | 1L << (nibble >> 2)) << column;
      }
      return kept;
    }

    /**
     * The rows two by two. Each takes the next partner with enough in common; a pair that found
     * none exchanges a row with an earlier one, if that saves passes.
     */
    private int[] pairs() {
      int[] order = IntStream.range(0, kept.length).toArray();
      for (int pair = 0; pair < order.length; pair += 2) {
        for (int other = pair + 2; other < order.length && wanting(order, pair); other++) {
          if (passes(order[pair], order[other]) < passes(order[pair], order[pair + 1])) {
            swap(order, pair + 1, other);
          }
        }
        for (int other = 0; other < pair && wanting(order, pair); other++) {
          int rest = order[other ^ 1];
          int before = passes(order[pair], order[pair + 1]) + passes(order[other], rest);
          int after = passes(order[pair], order[other]) + passes(order[pair + 1], rest);
          if (after < before) {
            swap(order, pair + 1, other);
          }
        }
      }
      return order;
    }

    /** Whether a pair takes more passes than its rows' columns alone ask for. */
    private boolean wanting(int[] order, int pair) {
      return passes(order[pair], order[pair + 1]) > fewest(order[pair], order[pair + 1]);
    }

    private static void swap(int[] order, int a, int b) {
      int row = order[a];
      order[a] = order[b];
      order[b] = row;
    }

    /** A row has two of a pass's places. */
    private int fewest(int first, int second) {
      int most = Math.max(Long.bitCount(kept[first]), Long.bitCount(kept[second]));
      return Math.ceilDiv(most, 2);
    }

    /** Passes of two rows, whose columns need three places each, a common one but one for both. */
    private int passes(int first, int second) {
      int columns = Long.bitCount(kept[first]) + Long.bitCount(kept[second]);
      int passes = fewest(first, second);
      while (3 * passes < columns - common(first, second, passes)) {
        passes++;
      }
      return passes;
    }

    /** Of so many passes, those with a column that both rows keep. */
    private int common(int first, int second, int passes) {
      return Math.min(passes, Long.bitCount(kept[first] & kept[second]));
    }

    private int passes(int block) {
      return IntStream.range(0, PAIRS)
          .map(pair -> block * BLOCK + 2 * pair)
          .map(i -> passes(order[i], order[i + 1]))
          .max()
          .orElseThrow();
    }

    private int blocks() {
      return order.length / BLOCK;
    }

    long bytes() {
      return IntStream.range(0, blocks())
          .mapToLong(block -> HEAD_BYTES + (long) passes(block) * PASS_BYTES)
          .sum();
    }

    /** Into memory of zeros. */
    void write(MemorySegment to) {
      long at = 0;
      for (int block = 0; block < blocks(); block++) {
        int passes = passes(block);
        for (int i = 0; i < BLOCK; i++) {
          short row = (short) order[block * BLOCK + i];
          to.set(ValueLayout.JAVA_SHORT_UNALIGNED, at + i * (long) Short.BYTES, row);
        }
        to.set(ValueLayout.JAVA_INT_UNALIGNED, at + PASSES_AT, passes);
        for (int pair = 0; pair < PAIRS; pair++) {
          int i = block * BLOCK + 2 * pair;
          int common = common(order[i], order[i + 1], passes);
          to.set(ValueLayout.JAVA_BYTE, at + COMMON_AT + pair, (byte) common);
          write(order[i], order[i + 1], passes, common, to.asSlice(at + HEAD_BYTES), pair);
        }
        at += HEAD_BYTES;
        at += (long) passes * PASS_BYTES;
      }
    }

    /** A pair's values and columns in passes that begin at {@code to}. */
    private void write(int first, int second, int passes, int common, MemorySegment to, int pair) {
      int[] rows = {first, second};
      long own = -1;
      long both = kept[first] & kept[second];
      for (int pass = 0; pass < common; pass++) {
        int column = Long.numberOfTrailingZeros(both & own);
        own &= ~(1L << column);
        for (int i = 0; i < rows.length; i++) {
          set(to, pass, pair, 0, column, i, rows[i]);
        }
      }
      int spare = common;
      for (int i = 0; i < rows.length; i++) {
        int pass = 0;
        for (long left = kept[rows[i]] & own; left != 0; left &= left - 1) {
          int column = Long.numberOfTrailingZeros(left);
          if (pass < passes) {
            set(to, pass++, pair, 1 + i, column, 2 + i, rows[i]);
          } else {
            set(to, spare++, pair, 0, column, i, rows[i]);
          }
        }
      }
    }

    private void set(
        MemorySegment to, int pass, int pair, int place, int column, int value, int row) {
      long at = (long) pass * PASS_BYTES;
      to.set(
          ValueLayout.JAVA_BYTE,
          at + COLUMNS_AT + (long) pair * COLUMNS_BYTES + place,
          (byte) column);
      to.set(
          ValueLayout.JAVA_FLOAT_UNALIGNED,
          at + (long) pair * VALUES_BYTES + value * (long) Float.BYTES,
          value(row, column));
    }

    private float value(int row, int column) {
      int before = Long.bitCount(kept[row] & (1L << column) - 1);
      long first = ((firstRow + row) * weight.shape().extent(1) + firstColumn) / 2;
      return weight.values().getFloat(first + before);
    }
  }
}
