package dev.halve.cpu;

import org.bytedeco.javacpp.FloatPointer;
import org.bytedeco.javacpp.Pointer;
import org.bytedeco.openblas.global.openblas;

/**
 * Dense products by OpenBLAS on raw addresses, all row-major F32. OpenBLAS itself is held to one
 * thread: the {@link ThreadTeam} splits the work, so that results depend on the split alone. One
 * instance for each member of the team.
 */
final class Blas {
  static {
    openblas.blas_set_num_threads(1);
  }

  private final Address a = new Address();
  private final Address b = new Address();
  private final Address c = new Address();

  /** A pointer that can be moved, so that a product allocates nothing. */
  private static final class Address extends FloatPointer {
    Address() {
      super((Pointer) null);
    }

    Address at(long bytes) {
      address = bytes;
      return this;
    }
  }

  /** {@code c[m, n] = alpha * a[m, k] · b[n, k]ᵀ + beta * c}. */
  void timesTransposed(
      int m,
      int n,
      int k,
      float alpha,
      long a,
      int lda,
      long b,
      int ldb,
      float beta,
      long c,
      int ldc) {
    call(openblas.CblasNoTrans, openblas.CblasTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }

  /** {@code c[m, n] = alpha * a[m, k] · b[k, n] + beta * c}. */
  void times(
      int m,
      int n,
      int k,
      float alpha,
      long a,
      int lda,
      long b,
      int ldb,
      float beta,
      long c,
      int ldc) {
    call(
        openblas.CblasNoTrans, openblas.CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }

  /** {@code c[m, n] = alpha * a[k, m]ᵀ · b[k, n] + beta * c}. */
  void transposedTimes(
      int m,
      int n,
      int k,
      float alpha,
      long a,
      int lda,
      long b,
      int ldb,
      float beta,
      long c,
      int ldc) {
    call(openblas.CblasTrans, openblas.CblasNoTrans, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }

  private void call(
      int transA,
      int transB,
      int m,
      int n,
      int k,
      float alpha,
      long a,
      int lda,
      long b,
      int ldb,
      float beta,
      long c,
      int ldc) {
    if (m == 0 || n == 0) {
      return;
    }
    openblas.cblas_sgemm(
        openblas.CblasRowMajor,
        transA,
        transB,
        m,
        n,
        k,
        alpha,
        this.a.at(a),
        lda,
        this.b.at(b),
        ldb,
        beta,
        this.c.at(c),
        ldc);
  }
}
