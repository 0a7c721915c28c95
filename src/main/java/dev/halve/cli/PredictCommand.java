package dev.halve.cli;

import dev.halve.recipe.EvaluationSettings;
import dev.halve.recipe.FeatureSettings;
import dev.halve.recipe.Steps;
import dev.halve.recipe.TextClassifier;
import dev.halve.recipe.TextEmbedder;
import dev.halve.recipe.TokenClassifier;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Optional;
import java.util.StringJoiner;
import java.util.stream.Stream;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve predict}. */
@Command(
    name = "predict",
    header = "Answers a question, classifies or embeds texts",
    description =
        "An answer is the likeliest span of the context. Texts are classified by the model's own"
            + " head, or made into vectors by the pooling that the model's files name.",
    footer = {
      "  ./halve predict --question 'Who wrote it?' --context 'Ada wrote it in 1843.'",
      "  ./halve predict --model retrained --question 'Who?' --context-file letter.txt --json",
      "  ./halve predict --task text-classification --model sentiment --text 'A fine day.'",
      "  ./halve predict --task token-classification --model names --text 'Ada lives in Rome.'",
      "  ./halve predict --task embedding --text 'A fine day.' --text 'Lovely weather.' --json"
    })
final class PredictCommand extends HalveCommand {
  private static final List<String> TASKS =
      List.of("question-answering", "text-classification", "token-classification", "embedding");

  @Mixin private ModelOption model;
  @Mixin private DeviceOption device;

  @Option(
      names = "--task",
      paramLabel = "TASK",
      defaultValue = "question-answering",
      description =
          "question-answering, text-classification, token-classification or embedding (default:"
              + " question-answering).")
  private String task;

  @Option(names = "--question", paramLabel = "TEXT", description = "The question.")
  private String question;

  @Mixin private ContextOptions context;
  @Mixin private TextOptions texts;

  @Mixin private FeatureOptions features;
  @Mixin private EvaluationOptions evaluation;

  /** The answer for a program. */
  private record Prediction(String question, List<Steps.Answer> answers) {}

  private record Classified(String text, List<TextClassifier.Label> labels) {}

  private record Tagged(String text, List<TokenClassifier.Entity> entities) {}

  private record Embedded(String text, float[] embedding) {}

  private record Results(String task, List<?> results) {}

  @Override
  void run(Console console, TerminalProgress progress) {
    requireConsistent();
    switch (task) {
      case "question-answering" -> answer(console, progress);
      case "text-classification" -> classify(console, progress);
      case "token-classification" -> tag(console, progress);
      case "embedding" -> embed(console, progress);
      default -> throw new IllegalStateException(task);
    }
  }

  private void requireConsistent() {
    if (!TASKS.contains(task)) {
      throw misused(
          "--task must be one of %s, found '%s'".formatted(String.join(", ", TASKS), task));
    }
    boolean answers = task.equals("question-answering");
    if (answers != (question != null)) {
      throw misused(
          answers ? "give the question with --question" : "--task " + task + " takes no question");
    }
    Stream.of(context.complaint(answers, task), texts.complaint(!answers, task))
        .flatMap(Optional::stream)
        .findFirst()
        .ifPresent(complaint -> {
          throw misused(complaint);
        });
  }

  private void answer(Console console, TerminalProgress progress) {
    List<Steps.Answer> answers =
        Steps.predict(
            model.orTutorials("sparse"),
            device.name(),
            question,
            context.read(),
            features.over(FeatureSettings.DEFAULT),
            evaluation.over(EvaluationSettings.DEFAULT),
            progress);
    if (json()) {
      console.json(new Prediction(question, answers));
      return;
    }
    console.print(answers.isEmpty() ? "(no answer)" : answers.getFirst().text());
  }

  private void classify(Console console, TerminalProgress progress) {
    List<String> all = texts.read();
    List<Classified> results = new ArrayList<>();
    try (TextClassifier classifier =
        TextClassifier.open(model.orNone(task), device.name(), progress)) {
      if (texts.pair() != null) {
        results.add(
            new Classified(all.getFirst(), classifier.classify(all.getFirst(), texts.pair())));
      } else {
        List<List<TextClassifier.Label>> labels = classifier.classify(all);
        for (int i = 0; i < labels.size(); i++) {
          results.add(new Classified(all.get(i), labels.get(i)));
        }
      }
    }
    if (json()) {
      console.json(new Results(task, results));
      return;
    }
    results.forEach(each ->
        console.printf("%s %.4f", each.labels.getFirst().label(), each.labels.getFirst().score()));
  }

  private void tag(Console console, TerminalProgress progress) {
    List<Tagged> results = new ArrayList<>();
    try (TokenClassifier classifier =
        TokenClassifier.open(model.orNone(task), device.name(), progress)) {
      texts.read().forEach(text -> results.add(new Tagged(text, classifier.classify(text))));
    }
    if (json()) {
      console.json(new Results(task, results));
      return;
    }
    for (Tagged tagged : results) {
      tagged.entities.forEach(each ->
          console.printf(
              "%s %.4f %d-%d %s",
              each.entityGroup(), each.score(), each.start(), each.end(), each.text()));
    }
  }

  private void embed(Console console, TerminalProgress progress) {
    List<String> all = texts.read();
    List<Embedded> results = new ArrayList<>();
    try (TextEmbedder embedder =
        TextEmbedder.open(model.orElse(ModelOption.EMBEDDED), device.name(), progress)) {
      float[][] embeddings = embedder.embed(all);
      for (int i = 0; i < embeddings.length; i++) {
        results.add(new Embedded(all.get(i), embeddings[i]));
      }
    }
    if (json()) {
      console.json(new Results(task, results));
      return;
    }
    for (Embedded each : results) {
      StringJoiner line = new StringJoiner(" ");
      for (float value : each.embedding) {
        line.add(String.format(Locale.ROOT, "%.6f", value));
      }
      console.print(line.toString());
    }
  }
}
