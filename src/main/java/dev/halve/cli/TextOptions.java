package dev.halve.cli;

import dev.halve.core.HalveException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import picocli.CommandLine.Option;

/** The texts to classify or to embed. */
final class TextOptions {
  @Option(
      names = "--text",
      paramLabel = "TEXT",
      description = "A text to classify or embed; may be given several times.")
  private List<String> texts = new ArrayList<>();

  @Option(
      names = "--text-file",
      paramLabel = "FILE",
      description = "A text file, of which every line is a text; - for the standard input.")
  private Path file;

  @Option(
      names = "--text-pair",
      paramLabel = "TEXT",
      description = "The second text, for a model that classifies pairs.")
  private String pair;

  /** What is wrong with them; empty if nothing is. */
  Optional<String> complaint(boolean needed, String task) {
    boolean given = !texts.isEmpty() || file != null;
    if (needed && !given) {
      return Optional.of("--task " + task + " needs texts, with --text or --text-file");
    }
    if (!needed && (given || pair != null)) {
      return Optional.of("--task " + task + " takes a question and a context, no --text");
    }
    if (pair != null
        && (!task.equals("text-classification") || texts.size() != 1 || file != null)) {
      return Optional.of("--text-pair goes with one --text and --task text-classification");
    }
    return Optional.empty();
  }

  /** Null where there is none. */
  String pair() {
    return pair;
  }

  List<String> read() {
    List<String> all = new ArrayList<>(texts);
    if (file != null) {
      TextFile.read(file).lines().filter(line -> !line.isBlank()).forEach(all::add);
    }
    if (all.isEmpty() || all.stream().anyMatch(String::isBlank)) {
      throw new HalveException("there is an empty text; give texts with words in them");
    }
    return all;
  }
}
