package dev.halve;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

/** The {@code halve} script, with a JDK and a Maven that only say how they were called. */
@DisabledOnOs(value = OS.WINDOWS, disabledReason = "the launcher is a bash script")
class LauncherTest {
  private static final List<String> TOOLS =
      List.of(
          "bash",
          "cat",
          "dirname",
          "find",
          "grep",
          "head",
          "ln",
          "mkdir",
          "mv",
          "paste",
          "readlink",
          "rm",
          "sed",
          "sleep",
          "sort",
          "tail",
          "touch",
          "tr");

  private static final String BUILD =
      """
      echo "build $* with $JAVA_HOME" >>"$PWD/builds"
      mkdir -p target
      : >target/halve.args
      : >target/halve.jar
      """;

  @TempDir Path temporary;
  private Path home;
  private Path checkout;
  private Path path;

  private record Outcome(int exitCode, String out, String err, long pid) {}

  @BeforeEach
  void setUp() throws IOException {
    home = Files.createDirectories(temporary.resolve("home of a user"));
    checkout = Files.createDirectories(temporary.resolve("a folder with spaces"));
    Files.copy(Path.of("halve"), checkout.resolve("halve"));
    assertThat(checkout.resolve("halve").toFile().setExecutable(true)).isTrue();
    Files.createFile(checkout.resolve("pom.xml"));
    Files.createFile(Files.createDirectories(checkout.resolve("src/main")).resolve("A.java"));
    path = Files.createDirectories(temporary.resolve("bin"));
    for (String tool : TOOLS) {
      script(path.resolve(tool), "exec " + find(tool) + " \"$@\"\n");
    }
    script(path.resolve("mvn"), BUILD);
  }

  private static Path find(String tool) {
    return List.of("/usr/bin", "/bin").stream()
        .map(folder -> Path.of(folder, tool))
        .filter(Files::exists)
        .findFirst()
        .orElseThrow();
  }

  private static void script(Path file, String body) throws IOException {
    Files.createDirectories(file.getParent());
    Files.writeString(file, "#!" + find("bash") + "\n" + body);
    assertThat(file.toFile().setExecutable(true)).isTrue();
  }

  /** A JDK whose java prints its arguments, one a line, after its own home. */
  private Path jdk(String folder, String version) throws IOException {
    Path jdk = home.resolve(folder);
    script(
        jdk.resolve("bin/java"),
        "echo \"$0 $$\"; printf '%s\\n' \"$@\"; echo 'WARNING: Using incubator modules:"
            + " jdk.incubator.vector' >&2; echo told >&2\n");
    script(jdk.resolve("bin/javac"), "");
    Files.writeString(jdk.resolve("release"), "JAVA_VERSION=\"" + version + "\"\nOTHER=1\n");
    return jdk;
  }

  private Process start(Path halve, Map<String, String> environment, String... arguments)
      throws IOException {
    List<String> command = new ArrayList<>(List.of(halve.toString()));
    command.addAll(List.of(arguments));
    ProcessBuilder builder = new ProcessBuilder(command).directory(temporary.toFile());
    builder.environment().clear();
    builder.environment().put("PATH", path.toString());
    builder.environment().put("HOME", home.toString());
    builder.environment().putAll(environment);
    return builder.start();
  }

  private static Outcome outcome(Process process) throws IOException, InterruptedException {
    String out = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    String err = new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor(30, TimeUnit.SECONDS)).isTrue();
    return new Outcome(process.exitValue(), out, err, process.pid());
  }

  private Outcome halve(String... arguments) throws IOException, InterruptedException {
    return outcome(start(checkout.resolve("halve"), Map.of(), arguments));
  }

  private List<String> builds() throws IOException {
    Path log = checkout.resolve("builds");
    return Files.exists(log) ? Files.readAllLines(log) : List.of();
  }

  @Test
  void buildsOnTheFirstCallAndHandsTheArgumentsToJava() throws Exception {
    Path jdk = jdk(".jdks/temurin-25", "25.0.3");
    Outcome first = halve("predict", "--question", "Who wrote 'it'?");
    assertThat(first.exitCode()).isZero();
    assertThat(first.err()).contains("halve: building for the first time");
    assertThat(first.out().lines())
        .contains(jdk.resolve("bin/java") + " " + first.pid())
        .contains("@" + checkout.resolve("target/halve.args"), "-jar")
        .contains(checkout.resolve("target/halve.jar").toString())
        .endsWith("predict", "--question", "Who wrote 'it'?");
    assertThat(builds()).singleElement().asString().endsWith("package with " + jdk);

    assertThat(halve("doctor").err()).isEqualTo("told\n");
    assertThat(builds()).hasSize(1);
  }

  @Test
  void buildsAgainWhenASourceIsNewerOrABuildWasKilled() throws Exception {
    jdk(".jdks/temurin-25", "25.0.3");
    halve();
    Files.writeString(checkout.resolve("src/main/A.java"), "class A {}");
    assertThat(halve().err()).contains("halve: building (log: ");
    assertThat(builds()).hasSize(2);

    Files.createFile(checkout.resolve("target/halve.started"));
    halve();
    assertThat(builds()).hasSize(3);
  }

  @Test
  void asksMavenForTheModelThatIsNamedAndKeepsIt() throws Exception {
    jdk(".jdks/temurin-25", "25.0.3");
    halve("doctor");
    halve("inspect", "bge-small-en-v1.5");
    Files.writeString(checkout.resolve("pom.xml"), "<changed/>");
    halve("doctor");
    assertThat(builds()).hasSize(3);
    assertThat(builds().get(0)).doesNotContain("-P");
    assertThat(builds().get(1)).contains("-Pbge");
    assertThat(builds().get(2)).contains("-Pbge");
  }

  @Test
  void worksThroughALinkFromAnyFolder() throws Exception {
    jdk(".jdks/temurin-25", "25.0.3");
    Path inner = Files.createSymbolicLink(checkout.resolve("inner"), Path.of("halve"));
    Path outer = Files.createSymbolicLink(home.resolve("halve"), inner);
    assertThat(outcome(start(outer, Map.of())).out())
        .contains(checkout.resolve("target/halve.jar").toString());
  }

  @Test
  void prefersJavaHomeThenTheNeededRelease() throws Exception {
    Path old = jdk("old", "21.0.1");
    Path early = jdk(".sdkman/candidates/java/27.ea", "27");
    Path needed = jdk(".jdks/temurin-25", "25.0.3");
    Path own = jdk("own", "26");
    Path halve = checkout.resolve("halve");
    assertThat(outcome(start(halve, Map.of("JAVA_HOME", own.toString()))).out())
        .startsWith(own.toString());
    assertThat(outcome(start(halve, Map.of("JAVA_HOME", old.toString()))).out())
        .startsWith(needed.toString());
    Files.createSymbolicLink(path.resolve("java"), early.resolve("bin/java"));
    assertThat(outcome(start(halve, Map.of("JAVA_HOME", old.toString()))).out())
        .startsWith(early.toString());
  }

  @Test
  void saysWhatToInstallWithoutAJdk() throws Exception {
    jdk(".jdks/temurin-25", "25.0.3");
    Path halve = checkout.resolve("halve");
    Files.writeString(halve, Files.readString(halve).replace("needed=25", "needed=99"));
    Outcome outcome = halve();
    assertThat(outcome.exitCode()).isEqualTo(2);
    assertThat(outcome.err()).contains("no JDK 99 or newer").contains("openjdk-99-jdk");
    assertThat(builds()).isEmpty();
  }

  @Test
  void saysWhatToInstallWithoutMaven() throws Exception {
    jdk(".jdks/temurin-25", "25.0.3");
    Files.delete(path.resolve("mvn"));
    Outcome outcome = halve();
    assertThat(outcome.exitCode()).isEqualTo(2);
    assertThat(outcome.err()).contains("no Maven").contains("apt install maven");
  }

  @Test
  void showsWhyABuildFailedAndTriesAgain() throws Exception {
    jdk(".jdks/temurin-25", "25.0.3");
    script(path.resolve("mvn"), "echo '[INFO] fine'; echo '[ERROR] A.java is wrong'; exit 1\n");
    Outcome outcome = halve();
    assertThat(outcome.exitCode()).isEqualTo(2);
    assertThat(outcome.err()).contains("A.java is wrong").doesNotContain("fine");
    assertThat(outcome.err()).contains("target/halve-build.log");
    script(path.resolve("mvn"), BUILD);
    assertThat(halve().exitCode()).isZero();
  }

  @Test
  void twoCallsAtOnceBuildOnce() throws Exception {
    jdk(".jdks/temurin-25", "25.0.3");
    script(path.resolve("mvn"), "sleep 1\n" + BUILD);
    Process one = start(checkout.resolve("halve"), Map.of());
    Process two = start(checkout.resolve("halve"), Map.of());
    assertThat(outcome(one).exitCode()).isZero();
    assertThat(outcome(two).exitCode()).isZero();
    assertThat(builds()).hasSize(1);
  }

  @Test
  void aLockOfADeadProcessHoldsNobodyUp() throws Exception {
    jdk(".jdks/temurin-25", "25.0.3");
    Process dead = new ProcessBuilder("true").start();
    dead.waitFor();
    Files.createSymbolicLink(
        Files.createDirectories(checkout.resolve("target")).resolve("halve.lock"),
        Path.of(Long.toString(dead.pid())));
    assertThat(halve().exitCode()).isZero();
    assertThat(builds()).hasSize(1);
  }
}
