package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import dev.halve.engine.Device;
import dev.halve.engine.PretrainedModel;
import dev.halve.qa.QaFeature;
import dev.halve.qa.QaFeatures;
import dev.halve.qa.SquadDataset;
import dev.halve.qa.SquadScore;
import dev.halve.qa.Tokenizer;
import dev.halve.report.LayerSparsity;
import dev.halve.report.Score;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.TreeSet;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.JsonNode;

/**
 * One training of a stored model into a folder, gone on with where a checkpoint of it is there.
 *
 * @param stage {@code fine-tune}, {@code retrain}, {@code train}
 * @param recovery what is done beside training under the masks
 * @param teacher the dense model that the recovery learns from; null where it learns from none
 * @param checkpoint where to keep it while it runs
 * @param folder where the trained model goes
 */
record TrainingRun(
    String stage,
    String model,
    TrainingSettings settings,
    RecoverySettings recovery,
    String teacher,
    Path checkpoint,
    Path folder) {
  /** What a checkpoint says of its run. */
  record Kept(
      String stage,
      String model,
      TrainingSettings settings,
      RecoverySettings recovery,
      String teacher,
      long rows,
      double seconds,
      TrainingState state) {}

  /** What a trained folder says of how it came about: {@code training.json}. */
  private record Finished(Kept run, Steps.Trained trained) {}

  private Path record() {
    return folder.resolve("training.json");
  }

  /** Makes the next run start anew. */
  void forget() {
    delete(checkpoint);
    delete(record());
  }

  /**
   * Trains to the end, writes the model folder, then removes the checkpoint. Where it came to its
   * end before, nothing is done again.
   *
   * @param scoring scores the model in between, as often as the settings say; null for never
   * @throws HalveException if the checkpoint is of another training
   */
  Steps.Trained run(Device device, Rows rows, Scoring scoring, Progress progress) {
    try (LoadedModel loaded = LoadedModel.open(model, device, settings.seed(), progress);
        LoadedModel dense =
            recovery.distils() ? LoadedModel.open(teacher, device, 0, progress) : null) {
      loaded.mask(recovery.masks());
      List<TrainingRow> training = rows.of(loaded.tokenizer());
      long fingerprint =
          new TrainingOrder(training, settings.batchSize(), settings.seed()).fingerprint();
      Kept fresh =
          new Kept(stage, model, settings, recovery, teacher, fingerprint, 0, TrainingState.START);
      Optional<Steps.Trained> finished = finished(fresh);
      if (finished.isPresent()) {
        return finished.get();
      }
      Kept kept = Files.exists(checkpoint) ? restore(loaded, fresh) : fresh;
      if (kept == fresh) {
        loaded.model().prepareTraining();
      }
      Trainer trainer =
          new Trainer(
              loaded.model(),
              training,
              settings,
              recovery,
              dense == null ? null : dense.model(),
              kept.state());
      if (scoring != null) {
        trainer.evaluateBy(() -> scoring.score(loaded));
      }
      long started = System.nanoTime();
      double seconds =
          trainer.run(
              stage,
              progress,
              state ->
                  Checkpoint.write(
                      checkpoint,
                      loaded.model(),
                      new Kept(
                          stage,
                          model,
                          settings,
                          recovery,
                          teacher,
                          fingerprint,
                          kept.seconds() + (System.nanoTime() - started) / 1e9,
                          state)));
      PretrainedModel.save(loaded.model(), loaded.origin(), folder);
      Steps.Trained trained =
          new Steps.Trained(
              folder,
              trainer.state().step(),
              kept.seconds() + seconds,
              trainer.tokens() / Math.max(seconds, 1e-9),
              LayerSparsity.overall(Pruning.layers(loaded.model())),
              trainer.state().loss(),
              trainer.state().scores());
      Json.write(record(), new Finished(fresh, trained));
      delete(checkpoint);
      return trained;
    }
  }

  /** Makes the rows to train on with the model's own tokenizer. */
  @FunctionalInterface
  interface Rows {
    List<TrainingRow> of(Tokenizer tokenizer);
  }

  /** Scores a model while it is trained. */
  @FunctionalInterface
  interface Scoring {
    Score score(LoadedModel model);
  }

  /** By the answers to questions. */
  static Scoring scoring(
      SquadDataset questions, FeatureSettings features, EvaluationSettings evaluation) {
    QaFeatures[] made = new QaFeatures[1];
    return loaded -> {
      if (made[0] == null) {
        made[0] =
            QaFeatures.of(
                loaded.tokenizer(),
                questions.examples(),
                features.maxLength(),
                features.docStride());
      }
      SquadScore score =
          Evaluator.evaluate(
                  loaded.model(), questions, made[0], evaluation, "evaluate", Progress.NONE)
              .score();
      return new Score(score.exactMatch(), score.f1());
    };
  }

  /** The rows of questions, all windows of a context. */
  static List<TrainingRow> rows(QaFeatures features) {
    List<TrainingRow> rows = new ArrayList<>(features.features().size());
    for (QaFeature row : features.features()) {
      rows.add(
          new TrainingRow(
              row.inputIds(), row.tokenTypeIds(), row.startPosition(), row.endPosition()));
    }
    return rows;
  }

  private Optional<Steps.Trained> finished(Kept fresh) {
    if (Files.exists(checkpoint) || !Files.exists(record())) {
      return Optional.empty();
    }
    try {
      Finished finished = Json.MAPPER.treeToValue(Json.read(record()), Finished.class);
      return differences(finished.run(), fresh).isEmpty()
          ? Optional.of(finished.trained())
          : Optional.empty();
    } catch (JacksonException other) {
      // Not ours, or an older one's: it is written over when this training ends.
      return Optional.empty();
    }
  }

  private Kept restore(LoadedModel loaded, Kept fresh) {
    try (Checkpoint opened = Checkpoint.open(checkpoint)) {
      Kept kept = opened.record(Kept.class);
      String differences = differences(kept, fresh);
      if (!differences.isEmpty()) {
        throw new HalveException(
            "%s is of another training (%s); give the same settings, or go without --resume to start anew"
                .formatted(checkpoint, differences));
      }
      opened.restore(loaded.model());
      return kept;
    }
  }

  private static String differences(Kept was, Kept now) {
    return differences(
        Json.MAPPER.valueToTree(identity(was)), Json.MAPPER.valueToTree(identity(now)));
  }

  /** What has to be the same: how often checkpoints are made need not. */
  private static Kept identity(Kept kept) {
    return new Kept(
        kept.stage(),
        kept.model(),
        kept.settings().withCheckpointSeconds(0),
        kept.recovery(),
        kept.teacher(),
        kept.rows(),
        0,
        TrainingState.START);
  }

  /** {@code "batch_size was 16, now 32"}; empty if two trees are equal. */
  static String differences(JsonNode was, JsonNode now) {
    List<String> differences = new ArrayList<>();
    collect("", was, now, differences);
    return String.join(", ", differences);
  }

  private static void collect(String at, JsonNode was, JsonNode now, List<String> differences) {
    if (was.isObject() && now.isObject()) {
      TreeSet<String> names = new TreeSet<>(was.propertyNames());
      names.addAll(now.propertyNames());
      for (String name : names) {
        collect(at.isEmpty() ? name : at + "." + name, was.path(name), now.path(name), differences);
      }
    } else if (!was.toString().equals(now.toString())) {
      // By text: a number read from a file may be of a narrower type.
      differences.add("%s was %s, now %s".formatted(at, was, now));
    }
  }

  static void delete(Path file) {
    try {
      Files.deleteIfExists(file);
    } catch (IOException failure) {
      throw HalveException.of("delete", file, failure);
    }
  }
}
