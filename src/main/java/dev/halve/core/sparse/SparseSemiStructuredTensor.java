package dev.halve.core.sparse;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/**
 * A weight in 2:4 semi-structured form: of every four neighbours along the input, the two that may
 * be nonzero, and their positions.
 *
 * <p>A group of four keeps the positions {@code i0 < i1}, coded as the nibble {@code i0 | i1 << 2}.
 * Group {@code g} of a row has its nibble in byte {@code g / 2} of the row, the low half for an
 * even {@code g}; with an odd number of groups the last high half is zero. A group with fewer than
 * two nonzeros also keeps zeros, the same that PyTorch's {@code SparseSemiStructuredTensor} keeps.
 *
 * <p>Zero means equal to zero, so that a weight multiplied by a mask, which leaves -0.0 behind, is
 * 2:4. A group whose -0.0 elements fit beside its nonzeros keeps them bit for bit; in any other
 * group a dropped -0.0 comes back as +0.0. So {@code decompress(compress(w))} always equals {@code
 * w} in value, and bit for bit whenever no group holds more than two elements other than +0.0, as
 * in every weight that {@code squashMask} has written.
 *
 * @param shape the dense shape {@code [out, in]}, {@code in} a multiple of 4
 * @param values the kept elements {@code [out, in / 2]}, F32, F16 or BF16
 * @param metadata the kept positions, U8 {@code [out, ceil(in / 8)]}
 */
public record SparseSemiStructuredTensor(Shape shape, Tensor values, Tensor metadata) {
  /** Nibble by the nonzero flags of a group (bit i: element i), -1 where more than two are set. */
  private static final byte[] NIBBLES = {
    0b1110, 0b1000, 0b1001, 0b0100, 0b1110, 0b1000, 0b1001, -1, // elements 0 to 2
    0b1110, 0b1100, 0b1101, -1, 0b1110, -1, -1, -1 // and with element 3
  };

  /**
   * @throws HalveException if the three do not fit each other; the positions themselves are the
   *     matter of {@link #validate}
   */
  public SparseSemiStructuredTensor {
    checkShape(shape);
    checkType(values.dtype());
    expect("values", values, values.dtype(), valuesShape(shape));
    expect("metadata", metadata, DType.U8, metadataShape(shape));
  }

  /**
   * Compresses a dense host weight {@code [out, in]} that is 2:4 already; the arena owns the
   * result.
   *
   * @throws HalveException if {@code in} is no multiple of 4, the type is not F32, F16 or BF16, an
   *     element is NaN, or a group holds more than two nonzeros; the message names the place
   */
  public static SparseSemiStructuredTensor compress(Arena arena, Tensor dense) {
    checkShape(dense.shape());
    checkType(dense.dtype());
    dense.requireNoNaN("the weight");
    Tensor values = Tensor.allocate(arena, dense.dtype(), valuesShape(dense.shape()).extents());
    Tensor metadata = Tensor.allocate(arena, DType.U8, metadataShape(dense.shape()).extents());
    Bits from = Bits.of(dense);
    Bits to = Bits.of(values);
    MemorySegment nibbles = metadata.segment();
    long groups = dense.extent(1) / 4;
    long rowBytes = metadata.extent(1);
    long group = 0;
    for (long row = 0; row < dense.extent(0); row++) {
      for (long g = 0; g < groups; g++, group++) {
        int nibble = nibble(from, group);
        if (nibble < 0) {
          throw new HalveException(tooMany(dense, row, g));
        }
        to.set(2 * group, from.get(4 * group + (nibble & 3)));
        to.set(2 * group + 1, from.get(4 * group + (nibble >> 2)));
        long at = row * rowBytes + g / 2;
        int half = (int) (g & 1) * 4;
        nibbles.set(
            ValueLayout.JAVA_BYTE,
            at,
            (byte) (nibbles.get(ValueLayout.JAVA_BYTE, at) | nibble << half));
      }
    }
    return new SparseSemiStructuredTensor(dense.shape(), values, metadata);
  }

  /** The positions kept of one group, or -1 if they do not suffice. */
  private static int nibble(Bits weight, long group) {
    int nonzero = 0;
    int nonzeroBits = 0;
    for (int i = 0; i < 4; i++) {
      int bits = weight.get(4 * group + i);
      nonzeroBits |= (bits != 0 ? 1 : 0) << i;
      nonzero |= ((bits & weight.magnitude()) != 0 ? 1 : 0) << i;
    }
    int exact = NIBBLES[nonzeroBits];
    return exact >= 0 ? exact : NIBBLES[nonzero];
  }

  private static String tooMany(Tensor dense, long row, long group) {
    int nonzeros = 0;
    for (int i = 0; i < 4; i++) {
      nonzeros += dense.getFloat(row * dense.extent(1) + 4 * group + i) != 0 ? 1 : 0;
    }
    return "the weight %s is not 2:4: row %d, columns %d to %d hold %d nonzeros; prune it first"
        .formatted(dense, row, 4 * group, 4 * group + 3, nonzeros);
  }

  /**
   * The dense host weight {@code [out, in]}, owned by the arena.
   *
   * @throws HalveException if the metadata is invalid
   */
  public Tensor decompress(Arena arena) {
    validate();
    Tensor dense = Tensor.allocate(arena, values.dtype(), shape.extents());
    Bits from = Bits.of(values);
    Bits to = Bits.of(dense);
    long groups = shape.extent(1) / 4;
    long group = 0;
    for (long row = 0; row < shape.extent(0); row++) {
      for (long g = 0; g < groups; g++, group++) {
        int nibble = nibble(row, g);
        to.set(4 * group + (nibble & 3), from.get(2 * group));
        to.set(4 * group + (nibble >> 2), from.get(2 * group + 1));
      }
    }
    return dense;
  }

  /**
   * Checks every position of a tensor in host memory, as is due for one that was read from a file.
   *
   * @throws HalveException if a group does not keep {@code i0 < i1}, or the unused half of a last
   *     byte is not zero; the message names the place
   */
  public void validate() {
    long groups = shape.extent(1) / 4;
    for (long row = 0; row < shape.extent(0); row++) {
      for (long g = 0; g < groups; g++) {
        int nibble = nibble(row, g);
        if ((nibble & 3) >= nibble >> 2) {
          throw new HalveException(
              "the metadata of %s keeps positions %d and %d in row %d, group %d; expected the first below the second; find undamaged weights"
                  .formatted(shape, nibble & 3, nibble >> 2, row, g));
        }
      }
      if (groups % 2 == 1 && nibble(row, groups) != 0) {
        throw new HalveException(
            "the metadata of %s has bits set past the last group of row %d; find undamaged weights"
                .formatted(shape, row));
      }
    }
  }

  /**
   * The positions {@code i0 < i1} that one group of four keeps, {@code i0 | i1 << 2}.
   *
   * @param group along the row
   */
  public int nibble(long row, long group) {
    byte pair = metadata.segment().get(ValueLayout.JAVA_BYTE, row * metadata.extent(1) + group / 2);
    return (group & 1) == 0 ? pair & 0xF : (pair >> 4) & 0xF;
  }

  /** Bytes of values and metadata together. */
  public long bytes() {
    return bytes(shape, values.dtype());
  }

  /** The same of any weight of this dense shape and type. */
  public static long bytes(Shape dense, DType dtype) {
    return valuesShape(dense).elements() * dtype.bytes() + metadataShape(dense).elements();
  }

  /** Bytes of the dense weight. */
  public long denseBytes() {
    return 2 * values.bytes();
  }

  private static Shape valuesShape(Shape dense) {
    return Shape.of(dense.extent(0), dense.extent(1) / 2);
  }

  private static Shape metadataShape(Shape dense) {
    return Shape.of(dense.extent(0), (dense.extent(1) + 7) / 8);
  }

  private static void checkShape(Shape shape) {
    if (shape.rank() != 2 || shape.extent(1) % 4 != 0) {
      throw new HalveException(
          "a weight of shape " + shape + " cannot be 2:4; expected [out, in], in a multiple of 4");
    }
  }

  private static void checkType(DType dtype) {
    if (dtype != DType.F32 && dtype != DType.F16 && dtype != DType.BF16) {
      throw new HalveException("a 2:4 weight cannot be " + dtype + "; expected F32, F16 or BF16");
    }
  }

  private static void expect(String part, Tensor found, DType dtype, Shape shape) {
    if (found.dtype() != dtype || !found.shape().equals(shape)) {
      throw new HalveException(
          "the %s of a 2:4 weight are %s; expected %s %s".formatted(part, found, dtype, shape));
    }
  }

  /** The elements of a tensor as their bits, so that no conversion can touch them. */
  private sealed interface Bits {
    int get(long index);

    void set(long index, int bits);

    /** All bits but the sign. */
    int magnitude();

    static Bits of(Tensor tensor) {
      return tensor.dtype() == DType.F32
          ? new Bits32(tensor.segment())
          : new Bits16(tensor.segment());
    }

    record Bits32(MemorySegment segment) implements Bits {
      @Override
      public int get(long index) {
        return segment.get(ValueLayout.JAVA_INT_UNALIGNED, index * Integer.BYTES);
      }

      @Override
      public void set(long index, int bits) {
        segment.set(ValueLayout.JAVA_INT_UNALIGNED, index * Integer.BYTES, bits);
      }

      @Override
      public int magnitude() {
        return 0x7FFF_FFFF;
      }
    }

    record Bits16(MemorySegment segment) implements Bits {
      @Override
      public int get(long index) {
        return segment.get(ValueLayout.JAVA_SHORT_UNALIGNED, index * Short.BYTES);
      }

      @Override
      public void set(long index, int bits) {
        segment.set(ValueLayout.JAVA_SHORT_UNALIGNED, index * Short.BYTES, (short) bits);
      }

      @Override
      public int magnitude() {
        return 0x7FFF;
      }
    }
  }
}
