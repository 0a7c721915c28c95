package dev.halve.cpu;

import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import jdk.incubator.vector.FloatVector;

/**
 * All of memory as one segment, its offsets being addresses. A kernel that reads through it carries
 * no bounds and no liveness checks through its inner loop; whoever calls a kernel has checked the
 * segments whose addresses it hands over, and keeps them alive.
 */
final class Memory {
  static final MemorySegment ALL = MemorySegment.NULL.reinterpret(Long.MAX_VALUE);
  static final ByteOrder ORDER = ByteOrder.nativeOrder();

  static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT_UNALIGNED;
  static final ValueLayout.OfInt INT = ValueLayout.JAVA_INT_UNALIGNED;

  private Memory() {}

  static float getFloat(long address) {
    return ALL.get(FLOAT, address);
  }

  static void setFloat(long address, float value) {
    ALL.set(FLOAT, address, value);
  }

  static int getInt(long address) {
    return ALL.get(INT, address);
  }

  /** A whole vector. Small enough that the JIT always inlines it. */
  static FloatVector vector(long address) {
    return FloatVector.fromMemorySegment(VectorMath.FLOATS, ALL, address, ORDER);
  }

  static void setVector(long address, FloatVector value) {
    value.intoMemorySegment(ALL, address, ORDER);
  }

  /** Float by float: a slice of {@link #ALL} to fill would be allocated. */
  static void zero(long address, long bytes) {
    for (long at = address; at < address + bytes; at += Float.BYTES) {
      setFloat(at, 0);
    }
  }

  /** Float by float, as {@link #zero}. */
  static void copy(long from, long to, long bytes) {
    for (long at = 0; at < bytes; at += Float.BYTES) {
      setFloat(to + at, getFloat(from + at));
    }
  }
}
