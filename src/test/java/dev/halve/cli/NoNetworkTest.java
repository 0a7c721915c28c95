package dev.halve.cli;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Locale;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** What asks for the network on a machine that has none. */
class NoNetworkTest {
  @TempDir Path folder;

  @Test
  void aDownloadEndsInOneLineThatSaysWhereElseTheFileMayCome() throws Exception {
    Path model = SmallModel.write(folder.resolve("model"));
    Path out = folder.resolve("trained");
    Path cache = folder.resolve("cache");
    ProcessBuilder training =
        new ProcessBuilder(
                HalveProcess.command("train", "--model", model, "--data", "squad", "--out", out))
            .redirectError(folder.resolve("err").toFile())
            .redirectOutput(folder.resolve("out").toFile());
    // A JVM that knows no hosts but those of an empty file, and no proxy that knows more.
    Path hosts = Files.createFile(folder.resolve("hosts"));
    training
        .environment()
        .keySet()
        .removeIf(name -> name.toLowerCase(Locale.ROOT).contains("proxy"));
    training.environment().put("JAVA_TOOL_OPTIONS", "-Djdk.net.hosts.file=" + hosts);
    for (String name : new String[] {"XDG_CACHE_HOME", "LOCALAPPDATA"}) {
      training.environment().put(name, cache.toString());
    }

    Process process = training.start();
    assertThat(process.waitFor(60, TimeUnit.SECONDS)).isTrue();

    assertThat(process.exitValue()).isEqualTo(2);
    assertThat(Files.readAllLines(folder.resolve("err")))
        .filteredOn(line -> line.startsWith("halve: "))
        .singleElement()
        .asString()
        .contains("train-v1.1.json", "is there a network?", "--train and --eval", cache.toString());
    assertThat(out).doesNotExist();
    try (var left = Files.walk(cache)) {
      assertThat(left.filter(Files::isRegularFile))
          .allSatisfy(file -> assertThat(file).isEmptyFile());
    }
  }
}
