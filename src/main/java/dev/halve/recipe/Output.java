package dev.halve.recipe;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;

/** What a run is to write to, tried before it starts, so that a long run does not end with this. */
public final class Output {
  private Output() {}

  /**
   * Tries a folder that need not exist yet, and leaves nothing behind.
   *
   * @return the deepest folder on the way to it that is there
   * @throws HalveException if it cannot be made or written to
   */
  static Path require(Path folder) {
    Path existing = folder.toAbsolutePath().normalize();
    while (existing.getParent() != null && !Files.exists(existing)) {
      existing = existing.getParent();
    }
    try {
      if (!Files.isDirectory(existing)) {
        throw new NotDirectoryException(existing.toString());
      }
      Files.delete(Files.createTempFile(existing, ".halve", ".tmp"));
    } catch (IOException failure) {
      throw HalveException.of("write to", folder, failure);
    }
    return existing;
  }

  /**
   * Tries a file that is to be replaced or made.
   *
   * @throws HalveException if it cannot be written
   */
  public static void requireFile(Path file) {
    if (Files.isDirectory(file)) {
      throw new HalveException("cannot write " + file + ": it is a folder");
    }
    require(file.toAbsolutePath().getParent());
  }
}
