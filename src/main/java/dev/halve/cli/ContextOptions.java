package dev.halve.cli;

import java.nio.file.Path;
import java.util.Optional;
import picocli.CommandLine.Option;

/** Where the context of a question is. */
final class ContextOptions {
  @Option(names = "--context", paramLabel = "TEXT", description = "The text that holds the answer.")
  private String text;

  @Option(
      names = "--context-file",
      paramLabel = "FILE",
      description = "A text file that holds the answer; - for the standard input.")
  private Path file;

  /** What is wrong with them; empty if nothing is. */
  Optional<String> complaint(boolean needed, String task) {
    if (needed && text == null && file == null) {
      return Optional.of("give the text that holds the answer with --context or --context-file");
    }
    if (text != null && file != null) {
      return Optional.of("--context and --context-file exclude each other");
    }
    if (!needed && (text != null || file != null)) {
      return Optional.of("--task " + task + " takes no context but texts, with --text");
    }
    return Optional.empty();
  }

  String read() {
    return file == null ? text : TextFile.read(file);
  }
}
