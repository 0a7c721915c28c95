package dev.halve.cli;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;

/** A file of text that somebody names on the command line. */
final class TextFile {
  private TextFile() {}

  static String read(Path file) {
    try {
      return Files.readString(file);
    } catch (CharacterCodingException notText) {
      throw new HalveException(file + " is not UTF-8 text", notText);
    } catch (IOException unreadable) {
      throw new HalveException(file + " cannot be read; check the path and its rights", unreadable);
    }
  }
}
