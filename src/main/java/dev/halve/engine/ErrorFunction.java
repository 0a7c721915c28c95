package dev.halve.engine;

/** The error function, for the few values of a head. */
final class ErrorFunction {
  private ErrorFunction() {}

  /**
   * By its Maclaurin series where that converges fast, else by the continued fraction of its
   * complement (Abramowitz and Stegun, 7.1.5 and 7.1.14); to about 1e-14.
   */
  static double erf(double x) {
    double z = Math.abs(x);
    if (z > 6) {
      return Math.copySign(1, x);
    }
    double result;
    if (z < 2.5) {
      double power = z;
      result = z;
      for (int n = 1; Math.abs(power) > 1e-16 * result; n++) {
        power *= -z * z / n;
        result += power / (2 * n + 1);
      }
      result *= 2 / Math.sqrt(Math.PI);
    } else {
      double denominator = z;
      for (int n = 60; n > 0; n--) {
        denominator = z + n / (2 * denominator);
      }
      result = 1 - Math.exp(-z * z) / (Math.sqrt(Math.PI) * denominator);
    }
    return Math.copySign(result, x);
  }
}
