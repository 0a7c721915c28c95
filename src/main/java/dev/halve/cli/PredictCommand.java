package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.recipe.EvaluationSettings;
import dev.halve.recipe.FeatureSettings;
import dev.halve.recipe.Steps;
import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import picocli.CommandLine.ArgGroup;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve predict}. */
@Command(
    name = "predict",
    header = "Answers a question from a context",
    description = "The answer is the likeliest span of the context.",
    footer = {
      "  ./halve predict --question 'Who wrote it?' --context 'Ada wrote it in 1843.'",
      "  ./halve predict --model retrained --question 'Who?' --context-file letter.txt --json"
    })
final class PredictCommand extends HalveCommand {
  @Mixin private ModelOption model;
  @Mixin private DeviceOption device;

  @Option(names = "--question", required = true, paramLabel = "TEXT", description = "The question.")
  private String question;

  @ArgGroup(multiplicity = "1")
  private Source source;

  @Mixin private FeatureOptions features;
  @Mixin private EvaluationOptions evaluation;

  /** Where the context is. */
  private static final class Source {
    @Option(
        names = "--context",
        required = true,
        paramLabel = "TEXT",
        description = "The text that holds the answer.")
    private String text;

    @Option(
        names = "--context-file",
        required = true,
        paramLabel = "FILE",
        description = "A text file that holds the answer.")
    private Path file;

    String read() {
      if (file == null) {
        return text;
      }
      try {
        return Files.readString(file);
      } catch (CharacterCodingException notText) {
        throw new HalveException(file + " is not UTF-8 text", notText);
      } catch (IOException unreadable) {
        throw new HalveException(
            file + " cannot be read; check the path and its rights", unreadable);
      }
    }
  }

  /** The answer for a program. */
  private record Prediction(String question, List<Steps.Answer> answers) {}

  @Override
  void run(Console console, TerminalProgress progress) {
    List<Steps.Answer> answers =
        Steps.predict(
            model.orTutorials("sparse"),
            device.name(),
            question,
            source.read(),
            features.over(FeatureSettings.DEFAULT),
            evaluation.over(EvaluationSettings.DEFAULT),
            progress);
    if (json()) {
      console.json(new Prediction(question, answers));
      return;
    }
    console.print(answers.isEmpty() ? "(no answer)" : answers.getFirst().text());
  }
}
