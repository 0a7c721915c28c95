package dev.halve.recipe;

import java.nio.file.Path;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;
import tools.jackson.databind.annotation.JsonSerialize;
import tools.jackson.databind.ser.std.ToStringSerializer;

/**
 * Which questions to learn and to be asked.
 *
 * @param name {@code synthetic} (generated), {@code squad} (the official v1.1 files, downloaded
 *     into a cache), {@code files}
 * @param train a file in SQuAD v1.1 format, for {@code files} only; may be null where nothing is
 *     trained
 * @param eval likewise
 * @param maxTrain the first so many training questions; 0 for all
 * @param maxEval the first so many evaluation questions; 0 for all
 */
@JsonNaming(SnakeCaseStrategy.class)
public record DataSettings(
    String name,
    @JsonSerialize(using = ToStringSerializer.class) Path train,
    @JsonSerialize(using = ToStringSerializer.class) Path eval,
    int maxTrain,
    int maxEval) {
  public static final DataSettings SYNTHETIC = new DataSettings("synthetic", null, null, 0, 0);
  public static final DataSettings SQUAD = new DataSettings("squad", null, null, 0, 0);

  public DataSettings {
    Settings.require(
        name.equals("synthetic") || name.equals("squad") || name.equals("files"),
        "data",
        "synthetic, squad or files",
        "'" + name + "'");
    Settings.require(maxTrain >= 0, "max train questions", "0 (all) or more", maxTrain);
    Settings.require(maxEval >= 0, "max eval questions", "0 (all) or more", maxEval);
  }

  /** Whether the training questions are in a file, or will be once it is downloaded. */
  boolean hasTrainingFile() {
    return train != null || name.equals("squad");
  }

  public static DataSettings files(Path train, Path eval) {
    return new DataSettings("files", train, eval, 0, 0);
  }
}
