package dev.halve.cli;

import static dev.halve.cli.CommandLineRun.halve;
import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class MainTest {
  @TempDir Path folder;

  @Test
  void helpNamesEveryCommand() {
    CommandLineRun help = halve("--help");
    assertThat(help.exitCode()).isZero();
    assertThat(help.err()).isEmpty();
    assertThat(help.out())
        .contains(
            "tutorial",
            "train",
            "prune",
            "eval",
            "convert",
            "predict",
            "score",
            "quickstart",
            "bench",
            "inspect",
            "doctor");
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "tutorial",
        "train",
        "prune",
        "eval",
        "convert",
        "predict",
        "score",
        "quickstart",
        "bench",
        "inspect",
        "doctor"
      })
  void everyCommandHasHelpWithExamples(String command) {
    CommandLineRun help = halve(command, "--help");
    assertThat(help.exitCode()).isZero();
    assertThat(help.err()).isEmpty();
    assertThat(help.out())
        .contains("Usage: halve " + command, "Examples:", "./halve " + command, "--json");
    assertThat(help.out().lines()).allSatisfy(line -> assertThat(line.length()).isLessThan(101));
  }

  @Test
  void noCommandIsAMistake() {
    CommandLineRun none = halve();
    assertThat(none.exitCode()).isEqualTo(2);
    assertThat(none.out()).isEmpty();
    assertThat(none.err()).startsWith("Usage: halve");
  }

  @Test
  void mistakesTakeOneLineAndSayWhereHelpIs() {
    for (List<String> arguments :
        List.of(
            List.of("retrain"),
            List.of("score", "--data", "x"),
            List.of("inspect", "--corner", "eight", "--tensor", "x"),
            List.of("train", "--out", "x", "--epochs", "1.5"),
            List.of("predict", "--question", "q"),
            List.of("predict", "--question", "q", "--context", "c", "--context-file", "f"))) {
      CommandLineRun run = halve(arguments.toArray());
      assertThat(run.exitCode()).as("%s", arguments).isEqualTo(2);
      assertThat(run.out()).isEmpty();
      assertThat(run.err().lines()).as(run.err()).hasSize(1);
      assertThat(run.err()).startsWith("halve").contains("--help");
    }
  }

  @Test
  void aMistypedCommandOrOptionIsGuessed() {
    assertThat(halve("tutorail").err()).contains("did you mean").contains("tutorial");
    assertThat(halve("inspect", "--tenser", "x").err()).contains("--tensor");
  }

  @Test
  void theStackTraceIsShownToThoseWhoAsk() {
    assertThat(halve("inspect", "nowhere").err().lines()).hasSize(1);
    assertThat(halve("inspect", "nowhere", "--verbose").err())
        .contains("halve: no model 'nowhere'")
        .contains("\tat dev.halve.");
  }

  @Test
  void numbersHaveTheirUsualDigitsInEveryLocale() throws IOException {
    Path broken =
        Files.write(folder.resolve("model.safetensors"), new byte[] {99, 1, 0, 0, 0, 0, 0, 0});
    ProcessBuilder command = new ProcessBuilder(HalveProcess.command("inspect", broken));
    command.environment().put("JDK_JAVA_OPTIONS", "-Duser.language=ar -Duser.country=EG");
    Process process = command.redirectErrorStream(true).start();
    String said = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(said).contains("a header of 355 bytes is announced, 0 bytes follow");
  }

  @Test
  void aRunWithoutEnoughMemoryEndsWithOneLineAtOnce() throws Exception {
    Path model = SmallModel.write(folder.resolve("model"));
    Path questions = SmallModel.questions(folder.resolve("questions.json"));
    ProcessBuilder command =
        new ProcessBuilder(
            HalveProcess.command(
                "train", "--model", model, "--train", questions, "--out", folder.resolve("out")));
    command.environment().put("JDK_JAVA_OPTIONS", "-Xmx12m -XX:TieredStopAtLevel=1");
    Process process = command.redirectErrorStream(true).start();
    String said = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor()).isEqualTo(1);
    assertThat(said).contains("halve: out of memory").doesNotContain("\tat ", "stopping");
  }

  @Test
  void theVersionIsOneLine() {
    CommandLineRun version = halve("--version");
    assertThat(version.exitCode()).isZero();
    assertThat(version.out()).matches("halve \\S+, Java \\S+\\R");
  }
}
