package dev.halve.cpu;

/**
 * One tile of a product {@code c [rows, tokens] = a [rows, steps] · b [steps, tokens]}, the sums
 * kept in registers from beginning to end. All but {@code steps} are addresses and distances in
 * bytes.
 */
@FunctionalInterface
interface DensePanelKernel {
  /**
   * @param a the first row's first element
   * @param aRowPitch from an element to the next row's
   * @param aStep from an element to the next in its row
   * @param b the first step's first token
   * @param bPitch from one step's tokens to the next one's
   * @param c the first row's first token
   * @param cPitch from one row's tokens to the next one's
   */
  void run(long a, long aRowPitch, long aStep, long b, long bPitch, long c, long cPitch, int steps);
}
