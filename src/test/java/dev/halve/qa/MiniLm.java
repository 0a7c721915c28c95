package dev.halve.qa;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;

/** The tokenizer of all-MiniLM-L6-v2, which the class path has. */
final class MiniLm {
  private MiniLm() {}

  static byte[] tokenizerJson() {
    try (InputStream stream =
        MiniLm.class.getResourceAsStream("/all-minilm-l6-v2-tokenizer.json")) {
      return stream.readAllBytes();
    } catch (IOException unreadable) {
      throw new UncheckedIOException(unreadable);
    }
  }

  static Tokenizer tokenizer() {
    return Tokenizer.ofJson("all-MiniLM-L6-v2", tokenizerJson());
  }
}
