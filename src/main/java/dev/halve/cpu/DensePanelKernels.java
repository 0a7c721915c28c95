package dev.halve.cpu;

import java.util.function.IntFunction;
import java.util.stream.IntStream;

/**
 * The kernels of tiles of one width, for several row counts, the most first and a single row last.
 */
record DensePanelKernels(int[] rows, DensePanelKernel[] kernels) {
  /** Compiles a kernel for {@code mostRows} and for every power of two below it. */
  static DensePanelKernels compile(int mostRows, IntFunction<DensePanelKernel> compiler) {
    int[] rows = IntStream.iterate(mostRows, r -> r > 0, r -> r / 2).toArray();
    return new DensePanelKernels(
        rows, IntStream.of(rows).mapToObj(compiler).toArray(DensePanelKernel[]::new));
  }

  /** A product of any number of rows; see {@link DensePanelKernel#run}. */
  void run(
      int count,
      long a,
      long aRowPitch,
      long aStep,
      long b,
      long bPitch,
      long c,
      long cPitch,
      int steps) {
    int row = 0;
    for (int i = 0; i < rows.length; i++) {
      for (; row + rows[i] <= count; row += rows[i]) {
        kernels[i].run(
            a + row * aRowPitch, aRowPitch, aStep, b, bPitch, c + row * cPitch, cPitch, steps);
      }
    }
  }
}
