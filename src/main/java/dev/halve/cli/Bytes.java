package dev.halve.cli;

import java.util.Locale;

/** Amounts of memory as a person reads them. */
final class Bytes {
  private Bytes() {}

  /** {@code 512 B}, {@code 43.3 MB}: decimal units, as file managers show them. */
  static String text(long bytes) {
    if (bytes < 1000) {
      return bytes + " B";
    }
    double amount = bytes / 1000.0;
    int unit = 0;
    while (amount >= 999.95 && unit < 3) {
      amount /= 1000;
      unit++;
    }
    return String.format(Locale.ROOT, "%.1f %sB", amount, "kMGT".charAt(unit));
  }
}
