package dev.halve;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.charset.MalformedInputException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;

/** The repository's own files: what they may name, and that what they point to is there. */
class RepositoryTest {
  /** What a build, an IDE or a run leaves behind. */
  private static final Set<String> NOT_OURS =
      Set.of(".git", "target", "halve-out", ".idea", ".vscode", ".settings", "shared");

  /** Folders of one machine, and addresses of package registries. */
  private static final Pattern PLACES =
      Pattern.compile(
          "(?<![\\w.])/(?:work|root|tmp)/|repo1?\\.maven\\b|registry\\.npmjs|deb\\.debian");

  private static final Pattern LINK = Pattern.compile("\\]\\((?!https?:)([^)#\\s]+)[^)]*\\)");

  private static List<Path> files() throws IOException {
    try (Stream<Path> walk = Files.walk(Path.of(""))) {
      return walk.filter(Files::isRegularFile)
          .filter(file -> !NOT_OURS.contains(file.getName(0).toString()))
          .toList();
    }
  }

  @Test
  void noFileNamesAMachinesFoldersOrARegistry() throws IOException {
    List<String> found = new ArrayList<>();
    for (Path file : files()) {
      if (file.endsWith("RepositoryTest.java")) {
        continue;
      }
      try {
        Matcher place = PLACES.matcher(Files.readString(file));
        while (place.find()) {
          found.add(file + ": " + place.group());
        }
      } catch (MalformedInputException notText) {
        // Pictures and archives name no places.
      }
    }
    assertThat(found).isEmpty();
  }

  @Test
  void everyLinkOfADocumentLeadsSomewhere() throws IOException {
    List<String> broken = new ArrayList<>();
    for (Path file : files()) {
      if (file.toString().endsWith(".md")) {
        Matcher link = LINK.matcher(Files.readString(file));
        while (link.find()) {
          if (!Files.exists(file.resolveSibling(link.group(1)))) {
            broken.add(file + ": " + link.group(1));
          }
        }
      }
    }
    assertThat(broken).isEmpty();
  }
}
