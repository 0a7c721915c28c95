package dev.halve.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

/** Ctrl-C in a process of its own. */
@DisabledOnOs(value = OS.WINDOWS, disabledReason = "there is no kill to send the signal with")
class InterruptionTest {
  private static final Duration PATIENCE = Duration.ofSeconds(60);

  @TempDir Path folder;

  private static void interrupt(Process process) throws IOException, InterruptedException {
    new ProcessBuilder("kill", "-INT", Long.toString(process.pid())).start().waitFor();
    assertThat(process.waitFor(PATIENCE.toSeconds(), TimeUnit.SECONDS)).isTrue();
  }

  private static void await(Path file, Process process) throws InterruptedException {
    long end = System.nanoTime() + PATIENCE.toNanos();
    while (!Files.exists(file)) {
      assertThat(process.isAlive()).as("still running").isTrue();
      assertThat(System.nanoTime()).as("time until %s is there", file).isLessThan(end);
      Thread.sleep(50);
    }
  }

  @Test
  void aTrainingStopsAtACheckpointAndSaysHowToGoOn() throws Exception {
    stopsAtACheckpointAndSaysHowToGoOn("train");
  }

  @Test
  void soDoesTheTrainingBehindAPruning() throws Exception {
    stopsAtACheckpointAndSaysHowToGoOn("prune", "--retrain");
  }

  private void stopsAtACheckpointAndSaysHowToGoOn(String... command) throws Exception {
    Path model = SmallModel.write(folder.resolve("model"));
    Path questions = SmallModel.questions(folder.resolve("questions.json"));
    Path out = folder.resolve("trained here");
    List<Object> arguments = new ArrayList<>(List.of(command));
    arguments.addAll(List.of("--model", model, "--train", questions, "--max-length", 128));
    arguments.addAll(List.of("--epochs", 100000, "--checkpoint-seconds", 1, "--out", out));
    Process training =
        new ProcessBuilder(HalveProcess.command(arguments.toArray()))
            .redirectError(folder.resolve("err").toFile())
            .redirectOutput(folder.resolve("out").toFile())
            .start();
    try {
      await(out.resolve("checkpoint.safetensors"), training);
      interrupt(training);
    } finally {
      training.destroyForcibly();
    }
    String err = Files.readString(folder.resolve("err"), StandardCharsets.UTF_8);
    assertThat(training.exitValue()).as(err).isEqualTo(130);
    assertThat(err)
        .contains("go on with: ./halve " + String.join(" ", command))
        .contains("--out '" + out + "'", "--resume")
        .doesNotContain("\tat ");
    assertThat(out.resolve("checkpoint.safetensors")).exists();
    assertThat(out.resolve("model.safetensors")).doesNotExist();
  }
}
