package dev.halve;

import static org.assertj.core.api.Assertions.assertThat;

import java.lang.management.ManagementFactory;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import javax.tools.ToolProvider;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The Java that README.md and docs/models.md show compiles and runs. */
class ReadmeTest {
  private static final List<Path> DOCUMENTS =
      List.of(Path.of("README.md"), Path.of("docs/models.md"));

  private static final Pattern JAVA = Pattern.compile("(?ms)^```java\\n(.*?)^```$");

  private static final Pattern IMPORTS = Pattern.compile("(?m)^import [^;]+;\\n");

  @TempDir Path folder;

  /** Each block one method, in order, so that one can use what another left in the folder. */
  @Test
  void theJavaExamplesCompileAndRun() throws Exception {
    StringBuilder imports = new StringBuilder();
    StringBuilder methods = new StringBuilder();
    StringBuilder calls = new StringBuilder();
    StringBuilder documents = new StringBuilder();
    for (Path document : DOCUMENTS) {
      documents.append(Files.readString(document));
    }
    Matcher block = JAVA.matcher(documents);
    int blocks = 0;
    while (block.find()) {
      Matcher importing = IMPORTS.matcher(block.group(1));
      while (importing.find()) {
        imports.append(importing.group());
      }
      String body = importing.replaceAll("");
      if (!body.isBlank()) {
        blocks++;
        methods.append("static void example%d() throws Exception {\n%s}\n".formatted(blocks, body));
        calls.append("example%d();\n".formatted(blocks));
      }
    }
    assertThat(blocks).as("Java examples").isGreaterThanOrEqualTo(6);
    Path source = folder.resolve("Readme.java");
    Files.writeString(
        source,
        "%sclass Readme {\n%spublic static void main(String[] args) throws Exception {\n%s}\n}\n"
            .formatted(imports, methods, calls));

    String classPath =
        System.getProperty("surefire.test.class.path", System.getProperty("java.class.path"));
    int compiled =
        ToolProvider.getSystemJavaCompiler()
            .run(null, null, null, "-cp", classPath, "-d", folder.toString(), source.toString());
    assertThat(compiled).as(Files.readString(source)).isZero();
    Path output = folder.resolve("output");
    Process run =
        new ProcessBuilder(command(classPath))
            .directory(folder.toFile())
            .redirectErrorStream(true)
            .redirectOutput(output.toFile())
            .start();
    assertThat(run.waitFor(5, TimeUnit.MINUTES)).isTrue();
    assertThat(run.exitValue()).as(Files.readString(output)).isZero();
  }

  private List<String> command(String classPath) {
    List<String> command = new ArrayList<>();
    command.add(Path.of(System.getProperty("java.home"), "bin", "java").toString());
    ManagementFactory.getRuntimeMXBean().getInputArguments().stream()
        .filter(argument -> argument.startsWith("--add-modules") || argument.contains("-access"))
        .forEach(command::add);
    command.addAll(
        List.of("-ea", "-cp", classPath + java.io.File.pathSeparator + folder, "Readme"));
    return command;
  }
}
