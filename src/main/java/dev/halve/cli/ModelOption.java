package dev.halve.cli;

import dev.halve.core.HalveException;
import java.nio.file.Files;
import java.nio.file.Path;
import picocli.CommandLine.Option;

/** Which model. */
final class ModelOption {
  /** Where {@code halve tutorial} leaves its models unless it is told otherwise. */
  static final Path TUTORIAL = Path.of("halve-out");

  static final String EMBEDDED = "all-MiniLM-L6-v2";

  @Option(
      names = "--model",
      paramLabel = "MODEL",
      description = {
        "all-MiniLM-L6-v2 or bge-small-en-v1.5 (both come with Halve), a folder in Hugging"
            + " Face's layout, hf:NAME[@REVISION] from its hub, or an ONNX file."
      })
  private String model;

  String orElse(String other) {
    return model == null ? other : model;
  }

  /** The named model: Halve comes with none for the task. */
  String orNone(String task) {
    if (model == null) {
      throw new HalveException("name a model with a head for %s with --model".formatted(task));
    }
    return model;
  }

  /** The named model, or the one that the last run of the tutorial left in a folder. */
  String orTutorials(String stage) {
    if (model != null) {
      return model;
    }
    Path folder = TUTORIAL.resolve(stage);
    if (!Files.exists(folder.resolve("config.json"))) {
      throw new HalveException(
          "no model is named and the tutorial left none in %s; name one with --model, or run"
                  .formatted(folder)
              + " ./halve tutorial first");
    }
    return folder.toString();
  }
}
