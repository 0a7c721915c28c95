package dev.halve.core.sparse;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;

/**
 * A 2:4 weight as PyTorch's {@code SparseSemiStructuredTensorCUTLASS} holds it. The values are
 * those of {@link SparseSemiStructuredTensor}; four nibbles of metadata make a 16-bit element, and
 * the elements lie in the order in which CUTLASS's sparse tensor operations read them (its {@code
 * reorder_meta} into {@code ColumnMajorInterleaved<2>}). Both ways keep every bit.
 *
 * @param values F16 or BF16 {@code [out, in / 2]}
 * @param metadata I16 {@code [out, in / 16]}, reordered
 */
public record CutlassLayout(Tensor values, Tensor metadata) {
  /**
   * @throws HalveException if the two do not fit each other, or PyTorch's format does not have such
   *     a weight: {@code out} is a multiple of 32, {@code in} of 64, the type F16 or BF16
   */
  public CutlassLayout {
    if (values.dtype() != DType.F16 && values.dtype() != DType.BF16) {
      throw new HalveException(
          "PyTorch's 2:4 values are " + values.dtype() + "; expected F16 or BF16");
    }
    if (values.shape().rank() != 2 || values.extent(0) % 32 != 0 || values.extent(1) % 32 != 0) {
      throw new HalveException(
          "PyTorch's 2:4 values are %s; expected [out, in / 2], out a multiple of 32, in of 64"
              .formatted(values.shape()));
    }
    Shape expected = Shape.of(values.extent(0), values.extent(1) / 8);
    if (metadata.dtype() != DType.I16 || !metadata.shape().equals(expected)) {
      throw new HalveException(
          "PyTorch's 2:4 metadata is " + metadata + "; expected I16 " + expected);
    }
  }

  /**
   * The weight in PyTorch's layout; it shares the values, the arena owns the metadata.
   *
   * @throws HalveException if PyTorch's format does not have such a weight
   */
  public static CutlassLayout of(Arena arena, SparseSemiStructuredTensor weight) {
    long out = weight.shape().extent(0);
    long columns = weight.shape().extent(1) / 16;
    Tensor metadata = Tensor.allocate(arena, DType.I16, out, columns);
    CutlassLayout layout = new CutlassLayout(weight.values(), metadata);
    reorder(weight.metadata().segment(), metadata.segment(), out, columns, true);
    return layout;
  }

  /**
   * The weight in this library's layout; it shares the values, the arena owns the metadata.
   *
   * @throws HalveException if the metadata is invalid
   */
  public SparseSemiStructuredTensor toSparseSemiStructured(Arena arena) {
    long out = values.extent(0);
    long columns = metadata.extent(1);
    Tensor ordered = Tensor.allocate(arena, DType.U8, out, 2 * columns);
    reorder(ordered.segment(), metadata.segment(), out, columns, false);
    SparseSemiStructuredTensor weight =
        new SparseSemiStructuredTensor(Shape.of(out, 16 * columns), values, ordered);
    weight.validate();
    return weight;
  }

  private static void reorder(
      MemorySegment ordered, MemorySegment swizzled, long out, long columns, boolean forth) {
    for (long row = 0; row < out; row++) {
      for (long column = 0; column < columns; column++) {
        // Both are little-endian, so that two bytes of nibbles are one element.
        long plain = (row * columns + column) * Short.BYTES;
        long place = place(row, column, out) * Short.BYTES;
        if (forth) {
          MemorySegment.copy(ordered, plain, swizzled, place, Short.BYTES);
        } else {
          MemorySegment.copy(swizzled, place, ordered, plain, Short.BYTES);
        }
      }
    }
  }

  /** Where an element of the metadata {@code [out, in / 16]} lies. */
  private static long place(long row, long column, long out) {
    // Of 32 rows, those 8 apart come together; of every 2 by 2, the corners beside the diagonal
    // change places; pairs of columns are stored one after the other, each row by row.
    long moved = row / 32 * 32 + row % 8 * 4 + row % 32 / 8;
    long exchange = column % 2 - moved % 2;
    moved += exchange;
    long movedColumn = column - exchange;
    return movedColumn / 2 * out * 2 + moved * 2 + movedColumn % 2;
  }
}
