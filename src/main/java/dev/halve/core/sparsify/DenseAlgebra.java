package dev.halve.core.sparsify;

import java.lang.foreign.MemorySegment;
import org.bytedeco.javacpp.DoublePointer;
import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.openblas.global.openblas;

/**
 * The dense products and factors of second-order pruning, by OpenBLAS, on row-major memory outside
 * the heap. Each call runs on its caller's thread; callers split the work.
 */
final class DenseAlgebra {
  static {
    openblas.blas_set_num_threads(1);
  }

  private DenseAlgebra() {}

  private static final class Floats extends FloatPointer {
    Floats(MemorySegment segment, long index) {
      super((Pointer) null);
      address = segment.address() + index * Float.BYTES;
    }
  }

  private static final class Doubles extends DoublePointer {
    Doubles(MemorySegment segment, long index) {
      super((Pointer) null);
      address = segment.address() + index * Double.BYTES;
    }
  }

  /**
   * A tile of {@code xᵀ · x} for {@code x [rows, stride]}: columns {@code i} to {@code i + m} by
   * columns {@code j} to {@code j + n}, into {@code tile [m, n]}.
   */
  static void gramTile(
      MemorySegment x, int rows, int stride, int i, int m, int j, int n, MemorySegment tile) {
    openblas.cblas_sgemm(
        openblas.CblasRowMajor,
        openblas.CblasTrans,
        openblas.CblasNoTrans,
        m,
        n,
        rows,
        1,
        new Floats(x, i),
        stride,
        new Floats(x, j),
        stride,
        0,
        new Floats(tile, 0),
        n);
  }

  /** {@code c[m, n] -= a[m, k] · b[k, n]}, each from an index on, with the given row strides. */
  static void subtractProduct(
      int m,
      int n,
      int k,
      MemorySegment a,
      long aIndex,
      int aStride,
      MemorySegment b,
      long bIndex,
      int bStride,
      MemorySegment c,
      long cIndex,
      int cStride) {
    openblas.cblas_dgemm(
        openblas.CblasRowMajor,
        openblas.CblasNoTrans,
        openblas.CblasNoTrans,
        m,
        n,
        k,
        -1,
        new Doubles(a, aIndex),
        aStride,
        new Doubles(b, bIndex),
        bStride,
        1,
        new Doubles(c, cIndex),
        cStride);
  }

  /**
   * Replaces the lower triangle of a symmetric positive definite matrix {@code [n, n]} by the
   * inverse of its lower Cholesky factor.
   *
   * @return false if the matrix is not positive definite
   */
  static boolean invertCholesky(MemorySegment matrix, int n) {
    // A row-major lower triangle is a column-major upper one; as such LAPACK copies nothing.
    return openblas.LAPACKE_dpotrf(
                openblas.LAPACK_COL_MAJOR, (byte) 'U', n, new Doubles(matrix, 0), n)
            == 0
        && openblas.LAPACKE_dtrtri(
                openblas.LAPACK_COL_MAJOR, (byte) 'U', (byte) 'N', n, new Doubles(matrix, 0), n)
            == 0;
  }
}
