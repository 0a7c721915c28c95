package dev.halve.core.sparse;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * A 2:4 weight as compressed-tensors stores it under the format {@code sparse-24-bitmask}: the
 * values of {@link SparseSemiStructuredTensor}, and a bit for each element of the dense weight, the
 * first element in the lowest bit. A file has them as {@code NAME.compressed}, {@code NAME.bitmask}
 * and {@code NAME.shape}, where {@code NAME.weight} was. Both ways keep every bit.
 *
 * @param shape I64 {@code [2, 1]}: the dense shape {@code [out, in]}
 * @param compressed the kept elements {@code [out, in / 2]}
 * @param bitmask U8 {@code [out, ceil(in / 8)]}
 */
public record Sparse24Bitmask(Tensor shape, Tensor compressed, Tensor bitmask) {
  /**
   * @throws HalveException if the parts do not fit each other
   */
  public Sparse24Bitmask {
    if (shape.dtype() != DType.I64 || shape.elements() != 2) {
      throw new HalveException(
          "the shape of a bitmask weight is " + shape + "; expected I64 [2, 1]");
    }
    long out = shape.segment().getAtIndex(ValueLayout.JAVA_LONG, 0);
    long in = shape.segment().getAtIndex(ValueLayout.JAVA_LONG, 1);
    if (compressed.shape().rank() != 2
        || compressed.extent(0) != out
        || compressed.extent(1) * 2 != in
        || in % 4 != 0) {
      throw new HalveException(
          "the values of a bitmask weight [%d, %d] are %s; expected [out, in / 2], in a multiple of 4"
              .formatted(out, in, compressed));
    }
    Shape expected = Shape.of(out, (in + 7) / 8);
    if (bitmask.dtype() != DType.U8 || !bitmask.shape().equals(expected)) {
      throw new HalveException(
          "the bitmask of a weight [%d, %d] is %s; expected U8 %s"
              .formatted(out, in, bitmask, expected));
    }
  }

  /** The weight in this layout; it shares the values, the arena owns the rest. */
  public static Sparse24Bitmask of(Arena arena, SparseSemiStructuredTensor weight) {
    weight.validate();
    Tensor shape = Tensor.allocate(arena, DType.I64, 2, 1);
    shape.segment().setAtIndex(ValueLayout.JAVA_LONG, 0, weight.shape().extent(0));
    shape.segment().setAtIndex(ValueLayout.JAVA_LONG, 1, weight.shape().extent(1));
    Tensor bitmask = Tensor.allocate(arena, DType.U8, weight.metadata().shape().extents());
    MemorySegment nibbles = weight.metadata().segment();
    boolean odd = weight.shape().extent(1) % 8 != 0;
    for (long i = 0; i < bitmask.elements(); i++) {
      byte pair = nibbles.get(ValueLayout.JAVA_BYTE, i);
      boolean half = odd && (i + 1) % bitmask.extent(1) == 0;
      int bits = bits(pair & 0xF) | (half ? 0 : bits(pair >> 4 & 0xF) << 4);
      bitmask.segment().set(ValueLayout.JAVA_BYTE, i, (byte) bits);
    }
    return new Sparse24Bitmask(shape, weight.values(), bitmask);
  }

  private static int bits(int nibble) {
    return 1 << (nibble & 3) | 1 << (nibble >> 2);
  }

  /**
   * The weight in this library's layout; it shares the values, the arena owns the metadata.
   *
   * @throws HalveException if a group of four does not have exactly two bits set
   */
  public SparseSemiStructuredTensor toSparseSemiStructured(Arena arena) {
    Tensor metadata = Tensor.allocate(arena, DType.U8, bitmask.shape().extents());
    long groups = compressed.extent(1) / 2;
    for (long row = 0; row < bitmask.extent(0); row++) {
      for (long group = 0; group < 2 * bitmask.extent(1); group++) {
        long at = row * bitmask.extent(1) + group / 2;
        int half = (int) (group % 2) * 4;
        int bits = bitmask.segment().get(ValueLayout.JAVA_BYTE, at) >> half & 0xF;
        if (Integer.bitCount(bits) != (group < groups ? 2 : 0)) {
          throw new HalveException(
              "a bitmask keeps %d elements in row %d, columns %d to %d; expected 2 of 4"
                  .formatted(Integer.bitCount(bits), row, 4 * group, 4 * group + 3));
        }
        if (bits != 0) {
          int first = Integer.numberOfTrailingZeros(bits);
          int second = 31 - Integer.numberOfLeadingZeros(bits);
          byte pair = metadata.segment().get(ValueLayout.JAVA_BYTE, at);
          metadata
              .segment()
              .set(ValueLayout.JAVA_BYTE, at, (byte) (pair | (first | second << 2) << half));
        }
      }
    }
    Shape dense = Shape.of(compressed.extent(0), 2 * compressed.extent(1));
    return new SparseSemiStructuredTensor(dense, compressed, metadata);
  }
}
