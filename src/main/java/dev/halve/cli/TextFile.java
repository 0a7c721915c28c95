package dev.halve.cli;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;

/** A file of text that somebody names on the command line. */
final class TextFile {
  private TextFile() {}

  static String read(Path file) {
    try {
      return Files.readString(file);
    } catch (IOException unreadable) {
      throw HalveException.of("read", file, unreadable);
    }
  }
}
