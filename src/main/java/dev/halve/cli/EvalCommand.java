package dev.halve.cli;

import dev.halve.recipe.DataSettings;
import dev.halve.recipe.EvaluationSettings;
import dev.halve.recipe.FeatureSettings;
import dev.halve.recipe.Questions;
import dev.halve.recipe.Steps;
import java.nio.file.Path;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve eval}. */
@Command(
    name = "eval",
    header = "Answers questions with a model, and scores the answers",
    description =
        "The scores are SQuAD's exact match and F1, as the official script computes " + "them.",
    footer = {
      "  ./halve eval --model halve-out/sparse",
      "  ./halve eval --model retrained --eval dev.json --predictions predictions.json --json"
    })
final class EvalCommand extends HalveCommand {
  @Mixin private ModelOption model;
  @Mixin private DeviceOption device;
  @Mixin private DataOptions data;
  @Mixin private FeatureOptions features;
  @Mixin private EvaluationOptions evaluation;

  @Option(
      names = "--predictions",
      paramLabel = "FILE",
      description = "Where to write the answers, {\"id\": \"text\"}.")
  private Path predictions;

  @Override
  void run(Console console, TerminalProgress progress) {
    Steps.Evaluated evaluated =
        Steps.evaluate(
            model.orTutorials("sparse"),
            device.name(),
            new Questions(
                data.over(DataSettings.SYNTHETIC, false, true),
                features.over(FeatureSettings.DEFAULT),
                evaluation.over(EvaluationSettings.DEFAULT)),
            predictions,
            progress);
    if (json()) {
      console.json(evaluated);
      return;
    }
    console.printf(
        "exact match %.2f, F1 %.2f over %d questions, %.0f tokens/s",
        evaluated.exactMatch(), evaluated.f1(), evaluated.total(), evaluated.tokensPerS());
  }
}
