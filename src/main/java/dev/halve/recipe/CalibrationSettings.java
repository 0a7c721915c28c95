package dev.halve.recipe;

import java.nio.file.Path;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;
import tools.jackson.databind.annotation.JsonSerialize;
import tools.jackson.databind.ser.std.ToStringSerializer;

/**
 * Which text a method calibrates on.
 *
 * @param file questions in SQuAD v1.1 format, or plain text in UTF-8
 * @param rows how many are sampled
 * @param length tokens a row at the most
 * @param seed of the sample
 */
@JsonNaming(SnakeCaseStrategy.class)
public record CalibrationSettings(
    @JsonSerialize(using = ToStringSerializer.class) Path file, int rows, int length, long seed) {
  /** What the papers take: 128 rows. */
  public static final int ROWS = 128;

  public static final int LENGTH = 384;

  public CalibrationSettings {
    Settings.require(rows >= 1, "calibration rows", "1 or more", rows);
    Settings.require(length >= 3, "calibration length", "3 tokens or more", length);
  }
}
