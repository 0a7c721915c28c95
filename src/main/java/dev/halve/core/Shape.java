package dev.halve.core;

import java.util.Arrays;

/** The extents of a tensor, outermost first; {@code []} is a scalar. */
public final class Shape {
  private final long[] extents;

  private Shape(long[] extents) {
    this.extents = extents;
  }

  /**
   * @throws IllegalArgumentException if an extent is negative or the element count does not fit in
   *     a long
   */
  public static Shape of(long... extents) {
    long elements = 1;
    for (long extent : extents) {
      if (extent < 0) {
        throw new IllegalArgumentException("negative extent in shape " + Arrays.toString(extents));
      }
      try {
        elements = Math.multiplyExact(elements, extent);
      } catch (ArithmeticException overflow) {
        throw new IllegalArgumentException(
            "too many elements in shape " + Arrays.toString(extents), overflow);
      }
    }
    return new Shape(extents.clone());
  }

  public int rank() {
    return extents.length;
  }

  /** The extent of one axis; a negative axis counts from the end. */
  public long extent(int axis) {
    return extents[axis < 0 ? axis + extents.length : axis];
  }

  /** How many elements a tensor of this shape holds. */
  public long elements() {
    long elements = 1;
    for (long extent : extents) {
      elements *= extent;
    }
    return elements;
  }

  public long[] extents() {
    return extents.clone();
  }

  @Override
  public boolean equals(Object other) {
    return other instanceof Shape shape && Arrays.equals(extents, shape.extents);
  }

  @Override
  public int hashCode() {
    return Arrays.hashCode(extents);
  }

  /** {@code [768, 3072]}, as messages show it. */
  @Override
  public String toString() {
    return Arrays.toString(extents);
  }
}
