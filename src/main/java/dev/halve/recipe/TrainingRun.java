package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import dev.halve.engine.Device;
import dev.halve.engine.PretrainedModel;
import dev.halve.qa.CalibrationText;
import dev.halve.qa.QaFeature;
import dev.halve.qa.SquadDataset;
import dev.halve.qa.Tokenizer;
import dev.halve.report.LayerSparsity;
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
 * @param checkpoint where to keep it while it runs
 * @param folder where the trained model goes
 */
record TrainingRun(String stage, String model, TrainingPlan plan, Path checkpoint, Path folder) {
  /** The most rows of text without labels that a training takes; of more, a random sample. */
  private static final int UNLABELLED_ROWS = 100_000;

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
   * @param questions to learn
   * @param scoring what the model is asked in between, as often as the plan says, or behind it:
   *     made ready before the first step, so that questions that are no good cost no training; null
   *     for nothing
   * @throws HalveException if the checkpoint is of another training
   */
  Steps.Trained run(Device device, SquadDataset questions, Examination scoring, Progress progress) {
    TrainingSettings settings = plan.training();
    RecoverySettings recovery = plan.recovery();
    try (LoadedModel loaded = LoadedModel.open(model, device, settings.seed(), progress);
        LoadedModel dense =
            recovery.distils() ? LoadedModel.open(plan.teacher(), device, 0, progress) : null) {
      loaded.mask(recovery.masks());
      List<TrainingRow> rows = rows(loaded.tokenizer(), questions);
      long fingerprint =
          new TrainingOrder(rows, settings.batchSize(), settings.seed()).fingerprint();
      Kept fresh = kept(fingerprint, 0, TrainingState.START);
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
              rows,
              settings,
              recovery,
              dense == null ? null : dense.model(),
              kept.state());
      if (scoring != null) {
        scoring.prepare(loaded);
        trainer.evaluateBy(() -> scoring.ask(loaded, "evaluate", Progress.NONE).scores());
      }
      long started = System.nanoTime();
      double seconds =
          trainer.run(
              stage,
              progress,
              state -> {
                double taken = kept.seconds() + (System.nanoTime() - started) / 1e9;
                Checkpoint.write(checkpoint, loaded.model(), kept(fingerprint, taken, state));
              });
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

  private Kept kept(long rows, double seconds, TrainingState state) {
    return new Kept(
        stage, model, plan.training(), plan.recovery(), plan.teacher(), rows, seconds, state);
  }

  /** All windows of the questions' contexts, and the plan's text. */
  private List<TrainingRow> rows(Tokenizer tokenizer, SquadDataset questions) {
    List<TrainingRow> rows = new ArrayList<>();
    for (QaFeature row : plan.features().rows(tokenizer, questions.examples()).features()) {
      rows.add(
          new TrainingRow(
              row.inputIds(), row.tokenTypeIds(), row.startPosition(), row.endPosition()));
    }
    if (plan.text() != null) {
      int length = plan.features().maxLength();
      long seed = plan.training().seed();
      CalibrationText.read(tokenizer, plan.text(), UNLABELLED_ROWS, length, seed)
          .forEach(row -> rows.add(new TrainingRow(row.inputIds(), row.tokenTypeIds(), -1, -1)));
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
