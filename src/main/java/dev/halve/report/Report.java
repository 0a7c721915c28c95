package dev.halve.report;

import dev.halve.core.HalveException;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.Json;
import java.nio.file.Path;
import java.util.List;
import java.util.Optional;
import tools.jackson.core.JacksonException;

/** The pages that a run leaves behind. */
public final class Report {
  private Report() {}

  /**
   * Writes {@code results.json}, {@code loss.csv}, {@code loss.png} and {@code report.html}, each
   * all or nothing.
   *
   * @return why {@code loss.png} could not be drawn, where the machine has no fonts to draw it with
   * @throws HalveException if the folder cannot be written to
   */
  public static Optional<String> write(Path folder, Results results) {
    Json.write(folder.resolve("results.json"), results);
    AtomicFile.write(folder.resolve("loss.csv"), LossCurve.csv(results.loss()));
    AtomicFile.write(folder.resolve("report.html"), HtmlPage.of(results));
    return writePicture(folder.resolve("loss.png"), results.loss());
  }

  private static Optional<String> writePicture(Path file, List<LossCurve> curves) {
    try {
      AtomicFile.write(file, LossChart.png(curves));
      return Optional.empty();
    } catch (HalveException notDrawn) {
      return Optional.of(
          "%s is missing: %s. report.html has the curves".formatted(file, notDrawn.getMessage()));
    }
  }

  /**
   * Reads the {@code results.json} that {@link #write} wrote.
   *
   * @throws HalveException if it is not there, or not one
   */
  public static Results read(Path folder) {
    Path file = folder.resolve("results.json");
    try {
      return Json.MAPPER.treeToValue(Json.read(file), Results.class);
    } catch (JacksonException other) {
      throw new HalveException(
          file + ": not the results of a tutorial run: " + Json.describe(other), other);
    }
  }

  /** The tutorial's table, several lines of text no wider than 80 columns. */
  public static String table(Results results) {
    return MeasureTable.text(results);
  }
}
