package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import dev.halve.engine.Device;
import dev.halve.engine.PretrainedModel;
import dev.halve.qa.QaFeature;
import dev.halve.qa.QaFeatures;
import dev.halve.qa.Tokenizer;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.TreeSet;
import tools.jackson.databind.JsonNode;

/**
 * One training of a stored model into a folder, gone on with where a checkpoint of it is there.
 *
 * @param stage {@code fine-tune}, {@code retrain}, {@code train}
 * @param checkpoint where to keep it while it runs
 * @param folder where the trained model goes
 */
record TrainingRun(
    String stage, String model, TrainingSettings settings, Path checkpoint, Path folder) {
  /** What a checkpoint says of its run. */
  record Kept(
      String stage,
      String model,
      TrainingSettings settings,
      long rows,
      double seconds,
      TrainingState state) {}

  /**
   * Trains to the end, writes the model folder, then removes the checkpoint.
   *
   * @throws HalveException if the checkpoint is of another training
   */
  Steps.Trained run(Device device, Rows rows, Progress progress) {
    try (LoadedModel loaded = LoadedModel.open(model, device, settings.seed(), progress)) {
      loaded.mask();
      List<TrainingRow> training = rows.of(loaded.tokenizer());
      long fingerprint =
          new TrainingOrder(training, settings.batchSize(), settings.seed()).fingerprint();
      Kept kept =
          Files.exists(checkpoint) ? restore(loaded, fingerprint) : start(loaded, fingerprint);
      Trainer trainer = new Trainer(loaded.model(), training, settings, kept.state());
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
                          fingerprint,
                          kept.seconds() + (System.nanoTime() - started) / 1e9,
                          state)));
      PretrainedModel.save(loaded.model(), loaded.origin(), folder);
      delete(checkpoint);
      return new Steps.Trained(
          folder,
          trainer.state().step(),
          kept.seconds() + seconds,
          trainer.tokens() / Math.max(seconds, 1e-9),
          Pruning.sparsity(Pruning.layers(loaded.model())),
          trainer.state().loss());
    }
  }

  /** Makes the rows to train on with the model's own tokenizer. */
  @FunctionalInterface
  interface Rows {
    List<TrainingRow> of(Tokenizer tokenizer);
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

  private Kept start(LoadedModel loaded, long fingerprint) {
    loaded.model().prepareTraining();
    return new Kept(stage, model, settings, fingerprint, 0, TrainingState.START);
  }

  private Kept restore(LoadedModel loaded, long fingerprint) {
    try (Checkpoint opened = Checkpoint.open(checkpoint)) {
      Kept kept = opened.record(Kept.class);
      String differences =
          differences(
              Json.MAPPER.valueToTree(identity(kept)),
              Json.MAPPER.valueToTree(
                  identity(new Kept(stage, model, settings, fingerprint, 0, TrainingState.START))));
      if (!differences.isEmpty()) {
        throw new HalveException(
            "%s is of another training (%s); give the same settings, or go without --resume to start anew"
                .formatted(checkpoint, differences));
      }
      opened.restore(loaded.model());
      return kept;
    }
  }

  /** What has to be the same: how often checkpoints are made need not. */
  private static Kept identity(Kept kept) {
    return new Kept(
        kept.stage(),
        kept.model(),
        kept.settings().withCheckpointSeconds(0),
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
