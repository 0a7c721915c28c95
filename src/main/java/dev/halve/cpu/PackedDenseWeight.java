package dev.halve.cpu;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.engine.Pool;

/**
 * A dense weight in the order in which a panel's product reads it: groups of {@code together} rows
 * one after another, {@code [columns, together]} each. Rows past the last are zeros.
 */
record PackedDenseWeight(long address, int rows, int columns, int together) {
  /**
   * @param weight {@code [rows, columns]}
   */
  static PackedDenseWeight pack(Pool pool, Tensor weight, int together) {
    int rows = Math.toIntExact(weight.extent(0));
    int columns = Math.toIntExact(weight.extent(1));
    int groups = (rows + together - 1) / together;
    Tensor packed = pool.allocate(DType.F32, groups, columns, together);
    for (int row = 0; row < rows; row++) {
      long group = row / together * (long) columns;
      for (int column = 0; column < columns; column++) {
        float value = weight.getFloat((long) row * columns + column);
        packed.setFloat((group + column) * together + row % together, value);
      }
    }
    return new PackedDenseWeight(packed.segment().address(), rows, columns, together);
  }

  /** Rows in memory. */
  int paddedRows() {
    return (rows + together - 1) / together * together;
  }

  /** Address of an element. */
  long at(int row, int column) {
    long group = row / together * (long) columns;
    return address + ((group + column) * together + row % together) * Float.BYTES;
  }
}
