package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class PredictionsTest {
  @TempDir Path folder;

  @Test
  void readsWhatItWritesInOrder() {
    Map<String, String> texts = new LinkedHashMap<>();
    texts.put("z", "a \"quoted\" 😀\n");
    texts.put("a", "");
    Path file = folder.resolve("predictions.json");
    Predictions.write(file, texts);
    assertThat(Predictions.read(file)).containsExactlyEntriesOf(texts);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "[\"a\"]|not a predictions file",
        "``|not a predictions file",
        "{\"a\": 1}|the prediction for \"a\" must be a string",
        "{\"a\": null}|the prediction for \"a\" must be a string",
        "{\"a\": [\"x\"]}|the prediction for \"a\" must be a string",
        "{\"a\": \"x\", \"a\": \"y\"}|not valid JSON at line 1, column",
        "{\"a\": \"x\"|not valid JSON at line 1, column",
        "{\"a\": \"x\"} {}|more text after the end",
      })
  void namesWhatIsWrong(String json, String message) throws IOException {
    Path file = Files.writeString(folder.resolve("predictions.json"), json);
    assertThatThrownBy(() -> Predictions.read(file))
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith(file + ": ")
        .hasMessageContaining(message)
        .message()
        .hasLineCount(1);
  }

  @Test
  void aFolderIsRefusedAsOne() {
    assertThatThrownBy(() -> Predictions.read(folder))
        .isInstanceOf(HalveException.class)
        .hasMessage("cannot read " + folder + ": Is a directory");
  }
}
