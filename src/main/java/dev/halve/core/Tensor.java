package dev.halve.core;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.Arrays;

/**
 * A dense row-major tensor in off-heap memory, in the byte order of the machine. The {@link Arena}
 * (or device) that allocated the memory owns it; a tensor is a view and is never closed.
 *
 * <p>A tensor in the memory of another device carries its address in a segment of length zero: the
 * host cannot read it by accident, since every access is out of bounds.
 */
public final class Tensor {
  /** Alignment of every allocation in bytes: one cache line, and the widest CPU vector. */
  public static final long ALIGNMENT = 64;

  /** The bits of the least double that rounds to infinity in F32. */
  private static final long BEYOND_F32 = Double.doubleToRawLongBits(0x1.ffffffp127);

  /** Elements that are converted at a time: they stay in the first-level cache. */
  private static final int CONVERTED = 4096;

  /** Rows and columns that are transposed at a time: a cache holds them on both sides. */
  private static final int TILE = 32;

  private final DType dtype;
  private final Shape shape;
  private final MemorySegment segment;

  /**
   * @throws IllegalArgumentException if the segment is neither empty (device memory) nor exactly as
   *     long as the shape needs
   */
  public Tensor(DType dtype, Shape shape, MemorySegment segment) {
    long needed = Math.multiplyExact(shape.elements(), (long) dtype.bytes());
    if (segment.byteSize() != needed && segment.byteSize() != 0) {
      throw new IllegalArgumentException(
          dtype
              + " "
              + shape
              + " needs "
              + needed
              + " bytes, the segment has "
              + segment.byteSize());
    }
    this.dtype = dtype;
    this.shape = shape;
    this.segment = segment;
  }

  /** A host tensor of zeros. */
  public static Tensor allocate(Arena arena, DType dtype, long... extents) {
    Shape shape = Shape.of(extents);
    long bytes = Math.multiplyExact(shape.elements(), (long) dtype.bytes());
    return new Tensor(dtype, shape, arena.allocate(bytes, ALIGNMENT));
  }

  /** A host F32 tensor with a copy of the given values. */
  public static Tensor of(Arena arena, float[] values, long... extents) {
    Tensor tensor = allocate(arena, DType.F32, extents);
    if (tensor.elements() != values.length) {
      throw new IllegalArgumentException(values.length + " values for shape " + tensor.shape);
    }
    MemorySegment.copy(values, 0, tensor.segment, ValueLayout.JAVA_FLOAT, 0, values.length);
    return tensor;
  }

  public DType dtype() {
    return dtype;
  }

  public Shape shape() {
    return shape;
  }

  public MemorySegment segment() {
    return segment;
  }

  public long elements() {
    return shape.elements();
  }

  public long bytes() {
    return shape.elements() * dtype.bytes();
  }

  /** Whether the host can read and write the elements. */
  public boolean onHost() {
    return segment.byteSize() == bytes();
  }

  /** The extent of one axis; a negative axis counts from the end. */
  public long extent(int axis) {
    return shape.extent(axis);
  }

  /** The same memory under another shape of as many elements. */
  public Tensor reshape(long... extents) {
    Shape other = Shape.of(extents);
    if (other.elements() != shape.elements()) {
      throw new IllegalArgumentException("cannot view " + shape + " as " + other);
    }
    return new Tensor(dtype, other, segment);
  }

  /** Rows {@code [from, from + count)} along the outermost axis, sharing this tensor's memory. */
  public Tensor rows(long from, long count) {
    long[] extents = shape.extents();
    if (from < 0 || count < 0 || from + count > extents[0]) {
      throw new IndexOutOfBoundsException(
          "rows " + from + " to " + (from + count) + " of " + shape);
    }
    long rowBytes = extents[0] == 0 ? 0 : bytes() / extents[0];
    extents[0] = count;
    MemorySegment part =
        onHost()
            ? segment.asSlice(from * rowBytes, count * rowBytes)
            : MemorySegment.ofAddress(segment.address() + from * rowBytes);
    return new Tensor(dtype, Shape.of(extents), part);
  }

  /** One element as a float; F32, F16, BF16 and F64 only. */
  public float getFloat(long index) {
    return switch (dtype) {
      case F32 -> segment.getAtIndex(ValueLayout.JAVA_FLOAT, index);
      case F16 -> Float.float16ToFloat(segment.getAtIndex(ValueLayout.JAVA_SHORT, index));
      case BF16 -> bfloat16ToFloat(segment.getAtIndex(ValueLayout.JAVA_SHORT, index));
      case F64 -> (float) segment.getAtIndex(ValueLayout.JAVA_DOUBLE, index);
      default -> throw new IllegalStateException(dtype + " holds no floats");
    };
  }

  /** One element with all its digits; floating types only. */
  public double getDouble(long index) {
    return dtype == DType.F64
        ? segment.getAtIndex(ValueLayout.JAVA_DOUBLE, index)
        : getFloat(index);
  }

  /** Stores one element, rounded to nearest even; F32, F16, BF16 and F64 only. */
  public void setFloat(long index, float value) {
    switch (dtype) {
      case F32 -> segment.setAtIndex(ValueLayout.JAVA_FLOAT, index, value);
      case F16 -> segment.setAtIndex(ValueLayout.JAVA_SHORT, index, Float.floatToFloat16(value));
      case BF16 -> segment.setAtIndex(ValueLayout.JAVA_SHORT, index, floatToBfloat16(value));
      case F64 -> segment.setAtIndex(ValueLayout.JAVA_DOUBLE, index, value);
      default -> throw new IllegalStateException(dtype + " holds no floats");
    }
  }

  /** All elements as floats; host tensors of a floating type only. */
  public float[] toFloatArray() {
    float[] values = new float[Math.toIntExact(elements())];
    getFloats(0, values, values.length);
    return values;
  }

  /**
   * Copies another host tensor of the same element count into this one, converting between floating
   * types.
   */
  public void copyFrom(Tensor source) {
    if (source.elements() != elements()) {
      throw new IllegalArgumentException("cannot copy " + source.shape + " into " + shape);
    }
    if (source.dtype == dtype) {
      MemorySegment.copy(source.segment, 0, segment, 0, bytes());
      return;
    }
    float[] values = new float[(int) Math.min(CONVERTED, elements())];
    for (long from = 0, n = elements(); from < n; from += CONVERTED) {
      int count = (int) Math.min(CONVERTED, n - from);
      source.getFloats(from, values, count);
      setFloats(from, values, count);
    }
  }

  /** A host matrix {@code [rows, columns]} as {@code [columns, rows]}, owned by the arena. */
  public Tensor transposed(Arena arena) {
    long rows = extent(0);
    long columns = extent(1);
    Tensor result = allocate(arena, dtype, columns, rows);
    for (long row0 = 0; row0 < rows; row0 += TILE) {
      for (long column0 = 0; column0 < columns; column0 += TILE) {
        for (long column = column0; column < Math.min(columns, column0 + TILE); column++) {
          for (long row = row0; row < Math.min(rows, row0 + TILE); row++) {
            copyElement(row * columns + column, result, column * rows + row);
          }
        }
      }
    }
    return result;
  }

  private void copyElement(long from, Tensor target, long to) {
    switch (dtype.bytes()) {
      case Integer.BYTES ->
          target.segment.set(
              ValueLayout.JAVA_INT_UNALIGNED,
              to * Integer.BYTES,
              segment.get(ValueLayout.JAVA_INT_UNALIGNED, from * Integer.BYTES));
      case Short.BYTES ->
          target.segment.set(
              ValueLayout.JAVA_SHORT_UNALIGNED,
              to * Short.BYTES,
              segment.get(ValueLayout.JAVA_SHORT_UNALIGNED, from * Short.BYTES));
      default -> {
        int width = dtype.bytes();
        MemorySegment.copy(segment, from * width, target.segment, to * width, width);
      }
    }
  }

  // By way of arrays: loops over those become vector instructions.
  private void getFloats(long from, float[] values, int count) {
    switch (dtype) {
      case F32 ->
          MemorySegment.copy(
              segment, ValueLayout.JAVA_FLOAT_UNALIGNED, from * Float.BYTES, values, 0, count);
      case F16 -> {
        short[] bits = bits(from, count);
        for (int i = 0; i < count; i++) {
          values[i] = Float.float16ToFloat(bits[i]);
        }
      }
      case BF16 -> {
        short[] bits = bits(from, count);
        for (int i = 0; i < count; i++) {
          values[i] = bfloat16ToFloat(bits[i]);
        }
      }
      default -> {
        for (int i = 0; i < count; i++) {
          values[i] = getFloat(from + i);
        }
      }
    }
  }

  private short[] bits(long from, int count) {
    short[] bits = new short[count];
    MemorySegment.copy(
        segment, ValueLayout.JAVA_SHORT_UNALIGNED, from * Short.BYTES, bits, 0, count);
    return bits;
  }

  private void setFloats(long from, float[] values, int count) {
    switch (dtype) {
      case F32 ->
          MemorySegment.copy(
              values, 0, segment, ValueLayout.JAVA_FLOAT_UNALIGNED, from * Float.BYTES, count);
      case F16 -> {
        short[] bits = new short[count];
        for (int i = 0; i < count; i++) {
          bits[i] = Float.floatToFloat16(values[i]);
        }
        setBits(from, bits);
      }
      case BF16 -> {
        short[] bits = new short[count];
        for (int i = 0; i < count; i++) {
          bits[i] = floatToBfloat16(values[i]);
        }
        setBits(from, bits);
      }
      default -> {
        for (int i = 0; i < count; i++) {
          setFloat(from + i, values[i]);
        }
      }
    }
  }

  private void setBits(long from, short[] bits) {
    MemorySegment.copy(
        bits, 0, segment, ValueLayout.JAVA_SHORT_UNALIGNED, from * Short.BYTES, bits.length);
  }

  /**
   * This tensor, known to be free of NaN.
   *
   * @throws HalveException if an element is NaN, or none is a floating-point number; the message
   *     begins with the given name and says where
   */
  public Tensor requireNoNaN(String name) {
    return requireFloats(name).require(name, firstFrom(1));
  }

  /**
   * This tensor, known to be finite in F32 too.
   *
   * @throws HalveException if an element is NaN, infinite or beyond F32, or none is a
   *     floating-point number; the message begins with the given name and says where
   */
  public Tensor requireFinite(String name) {
    return requireFloats(name)
        .require(name, dtype == DType.F64 ? firstOf64Bits(BEYOND_F32) : firstFrom(0));
  }

  private Tensor requireFloats(String name) {
    if (!dtype.isFloating()) {
      throw new HalveException(
          "%s (%s) holds no floating-point numbers; find weights that do".formatted(name, this));
    }
    return this;
  }

  private Tensor require(String name, long bad) {
    if (bad < 0) {
      return this;
    }
    double value = getDouble(bad);
    String what = Double.isNaN(value) ? "NaN" : "infinite";
    if (Double.isFinite(value)) {
      what = value + ", which F32 cannot hold,";
    }
    long at = bad;
    long[] place = shape.extents();
    for (int axis = place.length - 1; axis >= 0; axis--) {
      long extent = place[axis];
      place[axis] = at % extent;
      at /= extent;
    }
    throw new HalveException(
        "%s (%s) is %s at %s; find undamaged weights"
            .formatted(name, this, what, Arrays.toString(place)));
  }

  // The first element whose bits without the sign are infinity's and so much more, or -1. Bits,
  // since a NaN may not survive a conversion.
  private long firstFrom(int more) {
    return switch (dtype) {
      case F32 -> firstOf32Bits(0x7F80_0000 + more);
      case F16 -> firstOf16Bits(0x7C00 + more);
      case BF16 -> firstOf16Bits(0x7F80 + more);
      case F64 -> firstOf64Bits(0x7FF0_0000_0000_0000L + more);
      default -> throw new IllegalStateException(dtype + " holds no floats");
    };
  }

  // Constant layouts: handed in as arguments they make every access ten times as slow.
  private long firstOf64Bits(long least) {
    for (long i = 0, n = elements(); i < n; i++) {
      long bits = segment.get(ValueLayout.JAVA_LONG_UNALIGNED, i * Long.BYTES);
      if ((bits & Long.MAX_VALUE) >= least) {
        return i;
      }
    }
    return -1;
  }

  private long firstOf32Bits(int least) {
    for (long i = 0, n = elements(); i < n; i++) {
      int bits = segment.get(ValueLayout.JAVA_INT_UNALIGNED, i * Integer.BYTES);
      if ((bits & Integer.MAX_VALUE) >= least) {
        return i;
      }
    }
    return -1;
  }

  private long firstOf16Bits(int least) {
    for (long i = 0, n = elements(); i < n; i++) {
      short bits = segment.get(ValueLayout.JAVA_SHORT_UNALIGNED, i * Short.BYTES);
      if ((bits & 0x7FFF) >= least) {
        return i;
      }
    }
    return -1;
  }

  public static float bfloat16ToFloat(short bits) {
    return Float.intBitsToFloat(bits << 16);
  }

  /** Rounds to nearest even; NaN stays NaN. */
  public static short floatToBfloat16(float value) {
    int bits = Float.floatToRawIntBits(value);
    if (Float.isNaN(value)) {
      return (short) ((bits >>> 16) | 0x40);
    }
    return (short) ((bits + 0x7FFF + ((bits >>> 16) & 1)) >>> 16);
  }

  /** {@code F32 [768, 3072]}, as messages show it. */
  @Override
  public String toString() {
    return dtype + " " + shape;
  }
}
