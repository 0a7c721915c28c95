package dev.halve.core.sparsify;

import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.stream.IntStream;
import org.bytedeco.javacpp.DoublePointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.openblas.global.openblas;

/**
 * The dense products and factors of second-order pruning, by OpenBLAS, on row-major memory outside
 * the heap. OpenBLAS runs on its caller's thread: the work is split here, or by the callers.
 */
final class DenseAlgebra {
  /** Small enough that 1,536 inputs occupy sixteen threads for most of a factorisation. */
  private static final int BLOCK = 64;

  static {
    openblas.blas_set_num_threads(1);
  }

  private DenseAlgebra() {}

  private static final class Doubles extends DoublePointer {
    Doubles(MemorySegment segment, long index) {
      super((Pointer) null);
      address = segment.address() + index * Double.BYTES;
    }
  }

  /**
   * A row-major matrix among the doubles of a segment.
   *
   * @param first index of its first element
   * @param stride elements from a row to the next
   */
  record Matrix(MemorySegment segment, long first, int stride) {
    private DoublePointer pointer() {
      return new Doubles(segment, first);
    }
  }

  /** {@code c[m, n] -= a[m, k] · b[k, n]}. */
  static void subtractProduct(int m, int n, int k, Matrix a, Matrix b, Matrix c) {
    openblas.cblas_dgemm(
        openblas.CblasRowMajor,
        openblas.CblasNoTrans,
        openblas.CblasNoTrans,
        m,
        n,
        k,
        -1,
        a.pointer(),
        a.stride,
        b.pointer(),
        b.stride,
        1,
        c.pointer(),
        c.stride);
  }

  /**
   * Replaces the lower triangle of a symmetric positive definite matrix {@code [n, n]} by its lower
   * Cholesky factor; what lies above the diagonal is lost.
   *
   * @return false if the matrix is not positive definite
   */
  static boolean cholesky(MemorySegment matrix, int n) {
    for (int from = 0; from < n; from += BLOCK) {
      int width = Math.min(BLOCK, n - from);
      int behind = from + width;
      long corner = (long) from * (n + 1);
      // A row-major lower triangle is a column-major upper one; as such LAPACK copies nothing.
      if (openblas.LAPACKE_dpotrf(
              openblas.LAPACK_COL_MAJOR, (byte) 'U', width, new Doubles(matrix, corner), n)
          != 0) {
        return false;
      }
      int column = from;
      eachBlock(
          behind,
          n,
          (row, rows) ->
              openblas.cblas_dtrsm(
                  openblas.CblasRowMajor,
                  openblas.CblasRight,
                  openblas.CblasLower,
                  openblas.CblasTrans,
                  openblas.CblasNonUnit,
                  rows,
                  width,
                  1,
                  new Doubles(matrix, corner),
                  n,
                  new Doubles(matrix, (long) row * n + column),
                  n));
      eachBlock(
          behind,
          n,
          (row, rows) ->
              openblas.cblas_dgemm(
                  openblas.CblasRowMajor,
                  openblas.CblasNoTrans,
                  openblas.CblasTrans,
                  rows,
                  row + rows - behind,
                  width,
                  -1,
                  new Doubles(matrix, (long) row * n + column),
                  n,
                  new Doubles(matrix, (long) behind * n + column),
                  n,
                  1,
                  new Doubles(matrix, (long) row * n + behind),
                  n));
    }
    return true;
  }

  /**
   * The inverse of a lower triangle {@code [n, n]}, turned by half a turn: an upper triangle.
   *
   * @param inverse {@code [n, n]}; what lies below its diagonal is not written
   */
  static void invertBackwards(MemorySegment triangle, int n, MemorySegment inverse) {
    eachBlock(
        0,
        n,
        (from, columns) -> {
          int rows = n - from;
          try (Arena scratch = Arena.ofConfined()) {
            MemorySegment part =
                scratch.allocate((long) rows * columns * Double.BYTES, Tensor.ALIGNMENT);
            for (int i = 0; i < columns; i++) {
              part.setAtIndex(ValueLayout.JAVA_DOUBLE, (long) i * (columns + 1), 1);
            }
            openblas.cblas_dtrsm(
                openblas.CblasRowMajor,
                openblas.CblasLeft,
                openblas.CblasLower,
                openblas.CblasNoTrans,
                openblas.CblasNonUnit,
                rows,
                columns,
                1,
                new Doubles(triangle, (long) from * (n + 1)),
                n,
                new Doubles(part, 0),
                columns);
            for (int i = 0; i < rows; i++) {
              for (int j = 0; j < Math.min(i + 1, columns); j++) {
                inverse.setAtIndex(
                    ValueLayout.JAVA_DOUBLE,
                    (long) (rows - 1 - i) * n + (rows - 1 - j),
                    part.getAtIndex(ValueLayout.JAVA_DOUBLE, (long) i * columns + j));
              }
            }
          }
        });
  }

  private interface BlockTask {
    void run(int first, int count);
  }

  /** Runs a task for each block between two indices, in parallel. */
  private static void eachBlock(int from, int to, BlockTask task) {
    IntStream.range(0, Math.ceilDiv(to - from, BLOCK))
        .parallel()
        .forEach(block -> {
          int first = from + block * BLOCK;
          task.run(first, Math.min(BLOCK, to - first));
        });
  }
}
