package dev.halve.cli;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;
import picocli.CommandLine;

/** Every command line that help or a document shows is one that the command takes. */
class ExamplesTest {
  private static final Pattern CALL =
      Pattern.compile("(?m)^(?:\\$ )?\\s*\\./halve +((?:[^\\\\\n]|\\\\\n)+)");

  private static final Pattern WORD = Pattern.compile("'([^']*)'|\"([^\"]*)\"|([^\\s'\"]+)");

  private static CommandLine commandLine() {
    return Main.commandLine(new Console(System.out, System.err, false), Interruption.none());
  }

  private static void assertTaken(String where, String text, int atLeast) {
    int calls = 0;
    Matcher call = CALL.matcher(text);
    while (call.find()) {
      calls++;
      List<String> arguments = new ArrayList<>();
      Matcher word =
          WORD.matcher(call.group(1).replace("\\\n", " ").replaceFirst(" +#.*|   +.*", ""));
      while (word.find()) {
        arguments.add(
            word.group(1) != null
                ? word.group(1)
                : word.group(2) != null ? word.group(2) : word.group(3));
      }
      if (!arguments.contains("COMMAND")) {
        assertThatCode(() -> commandLine().parseArgs(arguments.toArray(String[]::new)))
            .as("%s: ./halve %s", where, arguments)
            .doesNotThrowAnyException();
      }
    }
    assertThat(calls).as("calls of ./halve in %s", where).isGreaterThanOrEqualTo(atLeast);
  }

  @Test
  void theExamplesOfEveryCommand() {
    for (CommandLine command : commandLine().getSubcommands().values()) {
      String usage = command.getUsageMessage();
      assertTaken(command.getCommandName(), usage, 1);
      // What is copied is a whole command line: none is wrapped without a backslash.
      assertThat(usage.substring(usage.indexOf("Examples:\n")).replace("\\\n", "").lines().skip(1))
          .allSatisfy(line -> assertThat(line).startsWith("  ./halve "));
    }
  }

  @Test
  void theDocuments() throws IOException {
    assertTaken("README.md", Files.readString(Path.of("README.md")), 5);
    assertTaken("docs/models.md", Files.readString(Path.of("docs/models.md")), 5);
    for (String document : List.of("ARCHITECTURE.md", "CONTRIBUTING.md")) {
      assertTaken(document, Files.readString(Path.of(document)), 0);
    }
  }
}
