package dev.halve.cli;

import dev.halve.recipe.Steps;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;

/** {@code halve score}. */
@Command(
    name = "score",
    header = "Scores a predictions file",
    description =
        "Exact match and F1, as the official SQuAD v1.1 script computes them, always as "
            + "JSON. Questions without a prediction are named and count 0.",
    footer = {"  ./halve score --data dev-v1.1.json --predictions predictions.json"})
final class ScoreCommand extends HalveCommand {
  @Option(
      names = "--data",
      required = true,
      paramLabel = "FILE",
      description = "Questions and their answers, in SQuAD v1.1 format.")
  private Path data;

  @Option(
      names = "--predictions",
      required = true,
      paramLabel = "FILE",
      description = "Answers, {\"id\": \"text\"}.")
  private Path predictions;

  @Override
  void run(Console console, TerminalProgress progress) {
    Steps.Scored scored = Steps.score(data, predictions);
    for (String id : scored.missing()) {
      progress.note("question " + id + " has no prediction and counts 0");
    }
    Map<String, Object> official = new LinkedHashMap<>();
    official.put("exact_match", scored.exactMatch());
    official.put("f1", scored.f1());
    official.put("total", scored.total());
    console.json(official);
  }
}
