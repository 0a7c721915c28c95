package dev.halve.report;

import java.nio.file.Path;

/** The pages that a run leaves behind. */
public final class Report {
  private Report() {}

  /**
   * Writes {@code results.json}, {@code loss.csv}, {@code loss.png} and {@code report.html}, each
   * all or nothing.
   *
   * @throws dev.halve.core.HalveException if the folder cannot be written to
   */
  public static void write(Path folder, Results results) {
    throw new UnsupportedOperationException("being written");
  }

  /**
   * Reads what {@link #write} wrote.
   *
   * @throws dev.halve.core.HalveException if there is no {@code results.json}, or it is not one
   */
  public static Results read(Path folder) {
    throw new UnsupportedOperationException("being written");
  }

  /** The tutorial's table, several lines of text no wider than 80 columns. */
  public static String table(Results results) {
    throw new UnsupportedOperationException("being written");
  }
}
