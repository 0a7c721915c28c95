package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.io.Json;
import dev.halve.core.io.Safetensors;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.qa.Answer;
import dev.halve.qa.Example;
import dev.halve.qa.Predictions;
import dev.halve.qa.SquadDataset;
import dev.halve.qa.SquadScore;
import dev.halve.report.LatencyRow;
import dev.halve.report.Report;
import dev.halve.report.Results;
import java.io.BufferedReader;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class TutorialTest {
  @TempDir static Path shared;
  @TempDir Path folder;

  private static Path straight;
  private static Results results;

  @BeforeAll
  static void runOnce() {
    TinyFolder.write(shared);
    straight = shared.resolve("out");
    results = Tutorial.run(TinyFolder.settings(shared, 3600), straight, false, Progress.NONE);
  }

  @Test
  void everyStageIsMeasuredAndWrittenDown() throws IOException {
    assertThat(Report.read(straight)).isEqualTo(results);
    assertThat(results.seconds().keySet())
        .containsExactly(
            "fine-tune",
            "evaluate dense",
            "prune",
            "evaluate pruned",
            "retrain",
            "evaluate retrained",
            "compress",
            "evaluate sparse",
            "latency");
    assertThat(results.trainQuestions()).isEqualTo(24);
    assertThat(results.evalQuestions()).isEqualTo(12);
    assertThat(results.loss()).hasSize(2);
    assertThat(results.loss().get(0).points().stream().map(point -> point.step()))
        .containsExactly(3, 6, 7);
    assertThat(results.examples()).hasSize(10);
    assertThat(results.data()).isEqualTo("train.json, eval.json");
    assertThat(Json.read(straight.resolve("results.json")).at("/settings/fine_tune/max_steps"))
        .hasToString("7");
    assertThat(names(straight))
        .containsExactlyInAnyOrder(
            "dense",
            "pruned",
            "retrained",
            "sparse",
            "predictions-dense.json",
            "predictions-pruned.json",
            "predictions-retrained.json",
            "predictions-sparse.json",
            "results.json",
            "loss.csv",
            "loss.png",
            "report.html");
  }

  private static List<String> names(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files.map(file -> file.getFileName().toString()).toList();
    }
  }

  @Test
  void scoresAreThoseOfTheAnswersInTheFiles() {
    SquadDataset questions = SquadDataset.read(shared.resolve("eval.json"));
    SquadScore score =
        SquadScore.of(questions, Predictions.read(straight.resolve("predictions-retrained.json")));
    assertThat(results.retrained().exactMatch()).isEqualTo(score.exactMatch());
    assertThat(results.retrained().f1()).isEqualTo(score.f1());
    assertThat(results.sameAnswers()).isEqualTo(12);
    assertThat(results.sparse()).isEqualTo(results.retrained());
  }

  @Test
  void weightsGoFromDenseToPrunedToRetrainedToSparse() {
    try (Safetensors dense = Safetensors.open(straight.resolve("dense"));
        Safetensors pruned = Safetensors.open(straight.resolve("pruned"));
        Safetensors retrained = Safetensors.open(straight.resolve("retrained"));
        Safetensors sparse = Safetensors.open(straight.resolve("sparse"));
        Arena arena = Arena.ofConfined()) {
      assertThat(results.layers()).hasSize(12);
      for (var layer : results.layers()) {
        assertThat(layer.pattern()).isEqualTo("2:4");
        assertThat(layer.sparsity()).isEqualTo(0.5);
        String name = layer.name();
        assertThat(SparsityPattern.of(dense.tensor(name)).semiStructured()).isFalse();
        assertThat(SparsityPattern.of(pruned.tensor(name)).semiStructured()).isTrue();
        Tensor before = pruned.tensor(name);
        Tensor after = retrained.tensor(name);
        int changed = 0;
        for (long i = 0; i < before.elements(); i++) {
          if (before.getFloat(i) == 0) {
            assertThat(Float.floatToRawIntBits(after.getFloat(i))).isZero();
          } else {
            assertThat(before.getFloat(i)).isEqualTo(dense.tensor(name).getFloat(i));
            changed += before.getFloat(i) != after.getFloat(i) ? 1 : 0;
          }
        }
        assertThat(changed).isGreaterThan((int) before.elements() / 4);
        Tensor decompressed =
            new SparseSemiStructuredTensor(
                    after.shape(),
                    sparse.tensor(name + ".values"),
                    sparse.tensor(name + ".metadata"))
                .decompress(arena);
        assertThat(decompressed.segment().mismatch(after.segment())).isEqualTo(-1);
        assertThat(sparse.names()).doesNotContain(name);
      }
      String embedding = "bert.embeddings.word_embeddings.weight";
      assertThat(SparsityPattern.of(retrained.tensor(embedding)).sparsity()).isLessThan(0.01);
    }
  }

  @Test
  void latencyHasARowForEveryBatchWeightAndMode() {
    assertThat(results.latency()).hasSize(8);
    assertThat(results.latency())
        .allSatisfy(row -> {
          assertThat(row.engine()).isEqualTo("halve");
          assertThat(row.tokens()).isEqualTo(row.batch() * 12);
          assertThat(row.msP10()).isPositive().isLessThanOrEqualTo(row.msP50());
          assertThat(row.msP50()).isLessThanOrEqualTo(row.msP90());
        });
    assertThat(results.latency().stream().map(LatencyRow::weights).distinct())
        .containsExactly("dense", "2:4");
    assertThat(results.size().sparseFile()).isLessThan(results.size().denseFile());
    // Half the F32 values and, for inputs of 16 and 32, a byte for 8 elements: 0.53 of it.
    assertThat((double) results.size().sparseLinear() / results.size().denseLinear())
        .isEqualTo(0.5 + 1.0 / 32);
  }

  /** Asks for a stop when it has been asked so often whether there is one. */
  private static final class StopAtQuestion implements Progress {
    private int left;

    StopAtQuestion(int questions) {
      this.left = questions;
    }

    @Override
    public boolean stopRequested() {
      return --left < 0;
    }
  }

  @Test
  void aRunThatIsStoppedEverywhereEndsWithTheSameModels() throws IOException {
    int stops = 0;
    while (true) {
      try {
        Tutorial.run(
            TinyFolder.settings(shared, stops % 2 == 0 ? 3600 : 0),
            folder,
            true,
            new StopAtQuestion(3 + stops % 5));
        break;
      } catch (StoppedException stopped) {
        stops++;
      }
      assertThat(stops).as("it never ends").isLessThan(100);
      if (stops > 12) {
        Tutorial.run(TinyFolder.settings(shared, 3600), folder, true, Progress.NONE);
        break;
      }
    }
    assertThat(stops).isGreaterThan(6);
    assertSameModels(folder);
  }

  private static void assertSameModels(Path out) throws IOException {
    for (String model : List.of("dense", "pruned", "retrained", "sparse")) {
      assertThat(
              Files.mismatch(
                  straight.resolve(model).resolve("model.safetensors"),
                  out.resolve(model).resolve("model.safetensors")))
          .as(model)
          .isEqualTo(-1);
    }
    Results resumed = Report.read(out);
    assertThat(resumed.loss()).isEqualTo(results.loss());
    assertThat(resumed.retrained()).isEqualTo(results.retrained());
    assertThat(names(out)).hasSameElementsAs(names(straight));
  }

  @Test
  void aRunThatIsKilledEndsWithTheSameModels() throws IOException, InterruptedException {
    for (int lines : new int[] {4, 15}) {
      Process process = start("");
      try (BufferedReader output = process.inputReader(StandardCharsets.UTF_8)) {
        for (int line = 0; line < lines && output.readLine() != null; line++) {
          assertThat(process.isAlive()).isTrue();
        }
        process.destroyForcibly();
      }
      assertThat(process.waitFor()).isEqualTo(137);
    }
    Process process = start("");
    String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor()).as(output).isZero();
    assertSameModels(folder);
  }

  @Test
  void aFullDiskIsSaidAndLeavesNothingHalfWritten() throws IOException, InterruptedException {
    // No file may become larger than 24 kB: the results can be written, a model cannot.
    Process process = start("ulimit -f 24; ");
    String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor()).as(output).isEqualTo(2);
    assertThat(output)
        .contains("cannot write " + folder.resolve("checkpoint.safetensors") + ": File too large");
    assertThat(names(folder)).isEmpty();
  }

  private Process start(String before) throws IOException {
    List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    command.addAll(
        List.of(
            "--add-modules=jdk.incubator.vector",
            "--enable-native-access=ALL-UNNAMED",
            "-XX:TieredStopAtLevel=1",
            "-cp",
            System.getProperty("java.class.path"),
            TutorialProcess.class.getName(),
            shared.toString(),
            folder.toString()));
    List<String> shell = new ArrayList<>(List.of("bash", "-c", before + "exec \"$@\"", "bash"));
    shell.addAll(command);
    return new ProcessBuilder(shell).redirectErrorStream(true).start();
  }

  @Test
  void anUnfinishedRunIsNotWrittenOver() {
    TutorialSettings settings = TinyFolder.settings(shared, 3600);
    assertThatThrownBy(() -> Tutorial.run(settings, folder, false, new StopAtQuestion(4)))
        .isInstanceOf(StoppedException.class);
    assertThatThrownBy(() -> Tutorial.run(settings, folder, false, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("holds an unfinished run; go on with it with --resume");
  }

  @Test
  void otherSettingsAreNotMixedIn() {
    TutorialSettings settings = TinyFolder.settings(shared, 3600);
    TutorialSettings other = with(settings, settings.data(), 20);
    assertThatThrownBy(() -> Tutorial.run(other, straight, true, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("other settings (features.max_length was 24, now 20)");
  }

  private static TutorialSettings with(
      TutorialSettings settings, DataSettings data, int maxLength) {
    return new TutorialSettings(
        settings.preset(),
        settings.model(),
        settings.device(),
        data,
        new FeatureSettings(maxLength, 0),
        settings.fineTune(),
        settings.pruning(),
        settings.retrain(),
        settings.evaluation(),
        settings.latency());
  }

  /** Hours of training lie before the first of them is asked. */
  @Test
  void evaluationQuestionsThatAreNoGoodAreRefusedBeforeTheTraining() throws IOException {
    assertRefusedBeforeTraining(folder.resolve("none.json"), "none.json: no such file");
    Path eval = Files.writeString(folder.resolve("eval.json"), "{}");
    assertRefusedBeforeTraining(eval, "not a SQuAD file");
    String context = "the city arl has two towers . ".repeat(10);
    new SquadDataset(
            "long",
            List.of(new Example("q", "how many towers ?", context, List.of(new Answer("two", 17)))))
        .write(eval);
    assertRefusedBeforeTraining(eval, "64 tokens", "40 positions");
  }

  private void assertRefusedBeforeTraining(Path eval, String... named) {
    TutorialSettings settings = TinyFolder.settings(shared, 3600);
    DataSettings data = DataSettings.files(shared.resolve("train.json"), eval);
    TutorialSettings unasked = with(settings, data, 64);
    List<String> stages = new ArrayList<>();
    Progress listener =
        new Progress() {
          @Override
          public void begin(String stage, long total, String unit) {
            stages.add(stage);
          }
        };
    assertThatThrownBy(() -> Tutorial.run(unasked, folder.resolve("out"), false, listener))
        .isInstanceOf(HalveException.class)
        .hasMessageContainingAll(named);
    assertThat(stages).isEmpty();
    assertThat(folder.resolve("out")).doesNotExist();
  }

  @Test
  void aFinishedRunThatIsResumedIsShownAgain() throws IOException {
    Files.delete(straight.resolve("report.html"));
    Results again = Tutorial.run(TinyFolder.settings(shared, 3600), straight, true, Progress.NONE);
    assertThat(again).isEqualTo(results);
    assertThat(straight.resolve("report.html")).isNotEmptyFile();
  }

  @Test
  void anOutputThatIsNoFolderIsNamedBeforeAnythingRuns() throws IOException {
    Path file = Files.writeString(folder.resolve("file"), "in the way");
    assertThatThrownBy(
            () -> Tutorial.run(TinyFolder.settings(shared, 3600), file, false, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith("cannot write to " + file);
    assertThatThrownBy(() ->
            Tutorial.run(
                TinyFolder.settings(shared, 3600),
                Path.of("/proc/halve-out"),
                false,
                Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith("cannot write to /proc/halve-out");
  }
}
