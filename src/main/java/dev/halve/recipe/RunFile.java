package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import dev.halve.report.LossCurve;
import dev.halve.report.Report;
import dev.halve.report.Results;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.node.ObjectNode;

/**
 * {@code run.json}: the results of the stages that are done, under the names of {@code
 * results.json}; rewritten as a whole after every stage. It is there as long as the run is
 * unfinished.
 */
final class RunFile {
  private final Path file;
  private final ObjectNode content;
  private boolean fresh;

  private RunFile(Path file, ObjectNode content) {
    this.file = file;
    this.content = content;
  }

  /**
   * @throws HalveException if there is a run that must not be written over, or another one than is
   *     to be resumed
   */
  static RunFile open(Path folder, TutorialSettings settings, boolean resume) {
    RunFile run = new RunFile(folder.resolve("run.json"), Json.MAPPER.createObjectNode());
    JsonNode now = Json.MAPPER.valueToTree(settings);
    if (Files.exists(run.file)) {
      if (!resume) {
        throw new HalveException(
            "%s holds an unfinished run; go on with it with --resume, name another folder, or delete %s"
                .formatted(folder, run.file));
      }
      return resumed(run.file, Json.read(run.file), now);
    }
    if (resume && Files.exists(folder.resolve("results.json"))) {
      // It was finished: every stage is done, and only the report is made again.
      return resumed(run.file, Json.MAPPER.valueToTree(Report.read(folder)), now);
    }
    run.fresh = true;
    run.content.set("settings", now);
    run.content.put("data", describe(settings.data()));
    run.content.putArray("loss");
    run.content.putObject("seconds");
    run.write();
    return run;
  }

  private static RunFile resumed(Path file, JsonNode content, JsonNode now) {
    JsonNode was = content.path("settings");
    String differences = TrainingRun.differences(comparable(was), comparable(now));
    if (!differences.isEmpty() || !(content instanceof ObjectNode run)) {
      throw new HalveException(
          "%s holds a run with other settings (%s); give the same, or name another folder"
              .formatted(file.getParent(), differences));
    }
    return new RunFile(file, run);
  }

  /** How often checkpoints are made does not matter. */
  private static JsonNode comparable(JsonNode settings) {
    JsonNode copy = settings.deepCopy();
    for (String training : List.of("fine_tune", "retrain")) {
      if (copy.path(training) instanceof ObjectNode found) {
        found.remove("checkpoint_seconds");
      }
    }
    return copy;
  }

  private static String describe(DataSettings data) {
    return data.name().equals("files")
        ? data.train().getFileName() + ", " + data.eval().getFileName()
        : data.name();
  }

  Path checkpoint() {
    return file.resolveSibling("checkpoint.safetensors");
  }

  /** Whether it starts anew, whatever the folder holds. */
  boolean isFresh() {
    return fresh;
  }

  boolean isDone(String stage) {
    return content.path("seconds").has(stage);
  }

  /** Remembers a result; it is written with the stage's end. */
  void put(String name, Object value) {
    content.set(name, Json.MAPPER.valueToTree(value));
  }

  void addLoss(LossCurve curve) {
    content.withArray("loss").add(Json.MAPPER.<JsonNode>valueToTree(curve));
  }

  void done(String stage, double seconds) {
    content.withObject("seconds").put(stage, seconds);
    write();
  }

  private void write() {
    Json.write(file, content);
  }

  Results results() {
    try {
      return Json.MAPPER.readValue(Json.compact(content), Results.class);
    } catch (JacksonException damaged) {
      throw new HalveException(
          "%s is damaged (%s); delete it to start anew".formatted(file, Json.describe(damaged)),
          damaged);
    }
  }

  /** A run that came to nothing may be started again with other settings, such as right ones. */
  void forgetIfEmpty() {
    if (content.path("seconds").isEmpty() && !Files.exists(checkpoint())) {
      finish();
    }
  }

  /** The results are written; nothing is left to resume. */
  void finish() {
    TrainingRun.delete(file);
  }
}
