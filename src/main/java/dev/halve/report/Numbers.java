package dev.halve.report;

import java.util.Locale;

/** How people read numbers here: the same everywhere, whatever the machine's locale. */
public final class Numbers {
  private Numbers() {}

  static String score(double percent) {
    return String.format(Locale.ROOT, "%.2f", percent);
  }

  static String signed(double difference) {
    String text = String.format(Locale.ROOT, "%+.2f", difference);
    return text.equals("-0.00") ? "+0.00" : text;
  }

  /** Three significant digits, as far as a reader of a latency cares. */
  static String milliseconds(double ms) {
    return ms >= 100
        ? String.format(Locale.ROOT, "%,.0f ms", ms)
        : String.format(Locale.ROOT, ms >= 10 ? "%.1f ms" : "%.2f ms", ms);
  }

  static String loss(double loss) {
    return String.format(Locale.ROOT, "%.3f", loss);
  }

  static String times(double ratio) {
    return String.format(Locale.ROOT, "%.2f×", ratio);
  }

  /** {@code 512 B}, {@code 43.3 MB}: decimal units, as file managers show them. */
  public static String bytes(long bytes) {
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

  /** {@code 4.2 s}, {@code 3:05 min}. */
  public static String seconds(double seconds) {
    return seconds < 60
        ? String.format(Locale.ROOT, "%.1f s", seconds)
        : String.format(Locale.ROOT, "%d:%02d min", (long) seconds / 60, (long) seconds % 60);
  }

  static String count(long count) {
    return String.format(Locale.ROOT, "%,d", count);
  }
}
