package dev.halve.core.sparsify;

/** The shape of a sparse block, {@code (1, 4)}: rows along the output, columns along the input. */
public record BlockShape(int rows, int columns) {
  public BlockShape {
    if (rows < 1 || columns < 1 || (long) rows * columns > 1 << 24) {
      throw new IllegalArgumentException("a block of " + rows + " by " + columns);
    }
  }

  /** How many elements a whole block holds. */
  public int elements() {
    return rows * columns;
  }

  @Override
  public String toString() {
    return "(" + rows + ", " + columns + ")";
  }
}
