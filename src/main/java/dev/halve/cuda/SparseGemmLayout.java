package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Set;

/**
 * How a 2:4 weight lies in device memory for {@code sparse_gemm_sm90.cu} and {@code
 * sparse_gemm_sm80.cu}: 9/16 of the dense weight, the same for both and for every tile size, so
 * that a weight is packed once, when it goes up.
 *
 * <p>The operand is an array {@code [kTiles][outBlocks]} of blocks, each of 64 output rows by 64
 * inputs in {@value #BLOCK_BYTES} bytes, and {@link #guardBlocks} blocks of zeros behind, since a
 * tile may reach past the last row block. All rows of one K tile are neighbours: one bulk copy
 * fetches a tile of any height.
 *
 * <ul>
 *   <li>Bytes 0 to 4095: the 32 kept values of each row, 64 bytes a row, with the 16-byte chunk
 *       {@code j} of row {@code r} at chunk {@code j ^ (r / 2 % 4)}: the 64-byte swizzle, which
 *       {@code wgmma} and {@code ldmatrix} read without bank conflicts.
 *   <li>Bytes 4096 to 4607: one word of metadata for each of the 128 threads of a warpgroup. Lane
 *       {@code l} of warp {@code w} holds, for {@code g = l / 4} and {@code c = l % 4}, the four
 *       nibbles of row {@code 16w + g} at inputs {@code 16c .. 16c + 15} in its low half and those
 *       of row {@code 16w + g + 8} in its high half. Selector 0 of the sparse instructions reads
 *       the words of {@code c} 0 and 1 (the first 32 inputs), selector 1 the others.
 * </ul>
 *
 * <p>Rows past {@code out} and inputs past {@code in} hold zero values and the pattern (0, 1).
 *
 * @param out rows of the weight, at least 1
 * @param in inputs, a multiple of 4
 */
record SparseGemmLayout(int out, int in) {
  /** Bytes of a block of 64 rows by 64 inputs: 4,096 of values and 512 of metadata. */
  static final int BLOCK_BYTES = 4608;

  /** Heights of the tiles, in row blocks of a whole cluster, that read the operand. */
  static final Set<Integer> TILE_BLOCKS = Set.of(1, 2, 3, 4, 6, 8);

  private static final int VALUE_BYTES = 4096;
  private static final int FIRST_TWO = 0x44;
  private static final int LIMIT = 1 << 24;

  /**
   * @throws HalveException if {@code in} is no multiple of 4 or an extent is not positive
   */
  static SparseGemmLayout of(Shape shape) {
    long out = shape.extent(0);
    long in = shape.extent(1);
    if (out < 1 || in < 4 || in % 4 != 0 || out > LIMIT || in > LIMIT) {
      throw new HalveException(
          "a 2:4 weight "
              + shape
              + " cannot be packed for the GPU: its second extent must be a"
              + " positive multiple of 4 and both at most "
              + LIMIT);
    }
    return new SparseGemmLayout((int) out, (int) in);
  }

  /** Blocks of 64 rows. */
  int outBlocks() {
    return Math.ceilDiv(out, 64);
  }

  /** Blocks of 64 inputs, at least 4: the kernels' pipelines start and end with two. */
  int kTiles() {
    return Math.max(4, Math.ceilDiv(in, 64));
  }

  /** Row blocks that the last tile of some height reaches past the end. */
  int guardBlocks() {
    return TILE_BLOCKS.stream()
        .mapToInt(height -> Math.ceilDiv(outBlocks(), height) * height - outBlocks())
        .max()
        .orElseThrow();
  }

  /** Bytes of the packed operand with its guard. */
  long bytes() {
    return ((long) kTiles() * outBlocks() + guardBlocks()) * BLOCK_BYTES;
  }

  /**
   * Packs a compressed weight of this shape.
   *
   * @param weight on the host, with F16 or BF16 values
   * @param target {@link #bytes()} host bytes at a multiple of 8; overwritten
   * @throws HalveException if the weight's shape or type is another
   */
  void pack(SparseSemiStructuredTensor weight, MemorySegment target) {
    if (!weight.shape().equals(Shape.of(out, in)) || weight.values().dtype().bytes() != 2) {
      throw new HalveException(
          "expected a 2:4 weight ["
              + out
              + ", "
              + in
              + "] of F16 or BF16, found "
              + weight.shape()
              + " with values "
              + weight.values());
    }
    target.fill((byte) 0);
    for (int kTile = 0; kTile < kTiles(); kTile++) {
      for (int block = 0; block < outBlocks(); block++) {
        long base = ((long) kTile * outBlocks() + block) * BLOCK_BYTES;
        packValues(weight.values().segment(), block, kTile, target, base);
        packMetadata(weight.metadata().segment(), block, kTile, target, base + VALUE_BYTES);
      }
    }
  }

  /**
   * The weight that was packed; the arena owns it.
   *
   * @param dtype of its values
   * @param packed {@link #bytes()} host bytes, as {@link #pack} wrote them
   */
  SparseSemiStructuredTensor unpack(Arena arena, DType dtype, MemorySegment packed) {
    Tensor values = Tensor.allocate(arena, dtype, out, in / 2);
    Tensor metadata = Tensor.allocate(arena, DType.U8, out, Math.ceilDiv(in, 8));
    for (int row = 0; row < out; row++) {
      int inBlock = row % 64;
      for (int group = 0; group < in / 4; group++) {
        long base = ((long) (group / 16) * outBlocks() + row / 64) * BLOCK_BYTES;
        int at = group % 16 * 4;
        long value = base + inBlock * 64L + ((at / 16) ^ (inBlock / 2 % 4)) * 16L + at % 16;
        values
            .segment()
            .set(
                ValueLayout.JAVA_INT_UNALIGNED,
                (long) row * in + group * 4L,
                packed.get(ValueLayout.JAVA_INT, value));
        int thread = inBlock / 16 * 32 + inBlock % 8 * 4 + group % 16 / 4;
        int shift = inBlock % 16 / 8 * 16 + group % 4 * 4;
        int nibble =
            packed.get(ValueLayout.JAVA_INT, base + VALUE_BYTES + thread * 4L) >>> shift & 0xF;
        long target = row * metadata.extent(1) + group / 2;
        byte pair = metadata.segment().get(ValueLayout.JAVA_BYTE, target);
        metadata
            .segment()
            .set(ValueLayout.JAVA_BYTE, target, (byte) (pair | nibble << group % 2 * 4));
      }
    }
    return new SparseSemiStructuredTensor(Shape.of(out, in), values, metadata);
  }

  private void packValues(
      MemorySegment values, int block, int kTile, MemorySegment target, long base) {
    int rows = Math.min(64, out - block * 64);
    int rowBytes = Math.min(64, in - kTile * 64);
    for (int row = 0; row < rows; row++) {
      // A row keeps in / 2 values of 2 bytes.
      long source = (long) (block * 64 + row) * in + kTile * 64L;
      for (int at = 0; at < rowBytes; at += 16) {
        long chunk = (at / 16) ^ (row / 2 % 4);
        MemorySegment.copy(
            values,
            source + at,
            target,
            base + row * 64L + chunk * 16,
            Math.min(16, rowBytes - at));
      }
    }
  }

  private void packMetadata(
      MemorySegment metadata, int block, int kTile, MemorySegment target, long base) {
    for (int thread = 0; thread < 128; thread++) {
      int row = block * 64 + thread / 32 * 16 + thread % 32 / 4;
      int at = kTile * 8 + thread % 4 * 2;
      int low = twoBytes(metadata, row, at);
      int high = twoBytes(metadata, row + 8, at);
      target.set(ValueLayout.JAVA_INT, base + thread * 4L, low | high << 16);
    }
  }

  private int twoBytes(MemorySegment metadata, int row, int at) {
    return oneByte(metadata, row, at) | oneByte(metadata, row, at + 1) << 8;
  }

  private int oneByte(MemorySegment metadata, int row, int at) {
    int rowBytes = Math.ceilDiv(in, 8);
    if (row >= out || at >= rowBytes) {
      return FIRST_TWO;
    }
    int found = metadata.get(ValueLayout.JAVA_BYTE, (long) row * rowBytes + at) & 0xFF;
    boolean half = at == rowBytes - 1 && in % 8 != 0;
    return half ? found & 0x0F | FIRST_TWO & 0xF0 : found;
  }
}
