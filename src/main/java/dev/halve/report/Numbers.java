package dev.halve.report;

import java.util.Locale;

/** How the table and the page write numbers: the same everywhere, whatever the machine's locale. */
final class Numbers {
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

  static String bytes(long bytes) {
    if (bytes >= 1_000_000_000) {
      return String.format(Locale.ROOT, "%.2f GB", bytes / 1e9);
    }
    return bytes >= 1_000_000
        ? String.format(Locale.ROOT, "%.1f MB", bytes / 1e6)
        : String.format(Locale.ROOT, "%.1f kB", bytes / 1e3);
  }

  static String seconds(double seconds) {
    return seconds >= 60
        ? String.format(
            Locale.ROOT, "%d min %02d s", (int) seconds / 60, (int) Math.floor(seconds % 60))
        : String.format(Locale.ROOT, "%.1f s", seconds);
  }

  static String count(long count) {
    return String.format(Locale.ROOT, "%,d", count);
  }
}
