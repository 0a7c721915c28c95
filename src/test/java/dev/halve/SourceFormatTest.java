package dev.halve;

import static org.assertj.core.api.Assertions.assertThat;

import com.google.googlejavaformat.java.Formatter;
import com.google.googlejavaformat.java.FormatterException;
import com.google.googlejavaformat.java.ImportOrderer;
import com.google.googlejavaformat.java.JavaFormatterOptions.Style;
import com.google.googlejavaformat.java.RemoveUnusedImports;
import com.google.googlejavaformat.java.StringWrapper;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;

/**
 * Every Java file is as google-java-format writes it. {@code mvn test -Dtest=SourceFormatTest
 * -Dformat=write} rewrites those that are not.
 */
class SourceFormatTest {
  private static final Formatter FORMATTER = new Formatter();

  @Test
  void everyJavaFileIsFormatted() {
    boolean write = "write".equals(System.getProperty("format"));
    List<Path> unformatted =
        Sources.java("src").parallelStream().filter(file -> !isFormatted(file, write)).toList();
    assertThat(unformatted)
        .as(
            write
                ? "files that could not be formatted"
                : "files to format with: mvn test -Dtest=SourceFormatTest -Dformat=write")
        .isEmpty();
  }

  /** Whether a file is formatted, or has been just now. */
  private static boolean isFormatted(Path file, boolean write) {
    String found = Sources.read(file);
    String formatted;
    try {
      String imports =
          ImportOrderer.reorderImports(
              RemoveUnusedImports.removeUnusedImports(found), Style.GOOGLE);
      // The formatter's own command line splits long strings too.
      formatted = StringWrapper.wrap(FORMATTER.formatSource(imports), FORMATTER);
    } catch (FormatterException unparsable) {
      throw new AssertionError(file + ": " + unparsable.getMessage(), unparsable);
    }
    if (write && !formatted.equals(found)) {
      try {
        Files.writeString(file, formatted);
      } catch (IOException e) {
        throw new AssertionError(file + " cannot be written", e);
      }
      return true;
    }
    return formatted.equals(found);
  }
}
