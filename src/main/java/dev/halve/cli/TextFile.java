package dev.halve.cli;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;

/** A file of text that somebody names on the command line; - is the standard input. */
final class TextFile {
  private TextFile() {}

  static String read(Path file) {
    try {
      if (file.toString().equals("-")) {
        ByteBuffer bytes = ByteBuffer.wrap(System.in.readAllBytes());
        return StandardCharsets.UTF_8.newDecoder().decode(bytes).toString();
      }
      return Files.readString(file);
    } catch (IOException unreadable) {
      throw HalveException.of("read", file, unreadable);
    }
  }
}
