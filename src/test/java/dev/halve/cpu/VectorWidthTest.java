package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.condition.EnabledIfSystemProperty;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** The kernels' tests in JVMs that are limited to shorter vectors than the machine has. */
class VectorWidthTest {
  @ParameterizedTest
  @CsvSource({"-XX:UseAVX=2, 8", "-XX:MaxVectorSize=16, 4", "-XX:MaxVectorSize=8, 2"})
  @EnabledIfSystemProperty(named = "os.arch", matches = "amd64|x86_64")
  void kernelsAreRightAtShorterVectors(String limit, int lanes) throws Exception {
    List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    command.add("--add-modules=jdk.incubator.vector");
    command.add("--enable-native-access=ALL-UNNAMED");
    command.add(limit);
    command.addAll(List.of("-cp", System.getProperty("java.class.path")));
    command.add(SparseProductTest.class.getName());
    Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
    String output =
        new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8).strip();
    assertThat(process.waitFor()).as(output).isZero();
    int found = Integer.parseInt(output.lines().toList().getLast());
    // A machine without wider vectors has these anyway, or shorter ones.
    assertThat(found).isLessThanOrEqualTo(lanes);
  }
}
