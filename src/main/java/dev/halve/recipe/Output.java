package dev.halve.recipe;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** A folder that a run is to write to. */
final class Output {
  private Output() {}

  /**
   * Makes the folder where it is missing, and tries it, so that a long run does not end with this.
   *
   * @throws HalveException if it cannot be written to
   */
  static void require(Path folder) {
    try {
      Files.createDirectories(folder);
      Files.delete(Files.createTempFile(folder, ".halve", ".tmp"));
    } catch (IOException failure) {
      throw HalveException.of("write to", folder, failure);
    }
  }
}
