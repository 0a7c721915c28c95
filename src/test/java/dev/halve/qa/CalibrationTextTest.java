package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class CalibrationTextTest {
  private static final Path SQUAD = Path.of("src/test/resources/dev/halve/qa/features-squad.json");

  private static Tokenizer tokenizer;

  @TempDir Path folder;

  @BeforeAll
  static void load() {
    tokenizer = MiniLm.tokenizer();
  }

  @AfterAll
  static void close() {
    tokenizer.close();
  }

  private static List<List<Integer>> ids(List<CalibrationText.Row> rows) {
    return rows.stream().map(row -> Arrays.stream(row.inputIds()).boxed().toList()).toList();
  }

  private Path text(int words) throws IOException {
    StringBuilder text = new StringBuilder("\n");
    for (int i = 0; i < words; i++) {
      text.append(i).append(i % 7 == 0 ? "\n\n" : " ");
    }
    return Files.writeString(folder.resolve("text.txt"), text);
  }

  @Test
  void takesAFilesQuestionsAsTheModelSeesThem() {
    List<CalibrationText.Row> rows = CalibrationText.read(tokenizer, SQUAD, 100, 40, 1);
    List<Example> examples = SquadDataset.read(SQUAD).examples();
    assertThat(rows).hasSameSizeAs(examples);
    QaFeature first = QaFeatures.of(tokenizer, examples, 40, 0).features().getFirst();
    assertThat(rows.getFirst().inputIds()).isEqualTo(first.inputIds());
    assertThat(rows.getFirst().tokenTypeIds()).isEqualTo(first.tokenTypeIds());
  }

  @Test
  void fillsRowsWithThePassagesOfAText() throws IOException {
    List<CalibrationText.Row> rows = CalibrationText.read(tokenizer, text(5000), 16, 32, 1);
    assertThat(rows).hasSize(16);
    for (CalibrationText.Row row : rows) {
      assertThat(row.inputIds()).hasSize(32).startsWith(101).endsWith(102);
      assertThat(row.tokenTypeIds()).hasSize(32).containsOnly(0);
    }
  }

  @Test
  void samplesTheSameForTheSameSeed() throws IOException {
    Path text = text(5000);
    List<List<Integer>> sample = ids(CalibrationText.read(tokenizer, text, 8, 32, 1));
    assertThat(ids(CalibrationText.read(tokenizer, text, 8, 32, 1))).isEqualTo(sample);
    assertThat(ids(CalibrationText.read(tokenizer, text, 8, 32, 2))).isNotEqualTo(sample);
    List<List<Integer>> all = ids(CalibrationText.read(tokenizer, text, 10_000, 32, 1));
    assertThat(all).hasSizeGreaterThan(40).containsSubsequence(sample);
  }

  @Test
  void everyPassageIsAsLikely() throws IOException {
    Path text = text(1000);
    List<List<Integer>> all = ids(CalibrationText.read(tokenizer, text, 10_000, 32, 1));
    int[] drawn = new int[all.size()];
    int draws = 400;
    for (int seed = 0; seed < draws; seed++) {
      for (List<Integer> row : ids(CalibrationText.read(tokenizer, text, 3, 32, seed))) {
        drawn[all.indexOf(row)]++;
      }
    }
    double expected = 3.0 * draws / all.size();
    // Five standard deviations of a binomial count.
    double margin = 5 * Math.sqrt(expected * (1 - 3.0 / all.size()));
    for (int count : drawn) {
      assertThat((double) count).isBetween(expected - margin, expected + margin);
    }
  }

  @Test
  void cutsATextWithoutSpaces() throws IOException {
    Path file = Files.writeString(folder.resolve("dense.txt"), "中".repeat(5000));
    assertThat(CalibrationText.read(tokenizer, file, 100, 16, 1))
        .hasSizeGreaterThan(10)
        .allSatisfy(row -> assertThat(row.inputIds().length).isLessThanOrEqualTo(16));
  }

  @Test
  void namesAFileThatHoldsNoText() throws IOException {
    Path empty = Files.writeString(folder.resolve("empty.txt"), " \n ");
    assertThatThrownBy(() -> CalibrationText.read(tokenizer, empty, 8, 32, 1))
        .isInstanceOf(HalveException.class)
        .hasMessage(empty + " holds no text to calibrate with");
    Path binary = Files.write(folder.resolve("binary"), new byte[] {65, (byte) 0xff, (byte) 0xfe});
    assertThatThrownBy(() -> CalibrationText.read(tokenizer, binary, 8, 32, 1))
        .hasMessage("cannot read " + binary + ": it is no text in UTF-8; convert it");
    assertThatThrownBy(() -> CalibrationText.read(tokenizer, folder.resolve("none"), 8, 32, 1))
        .hasMessageStartingWith("cannot read ");
    assertThatThrownBy(() -> CalibrationText.read(tokenizer, empty, 0, 32, 1))
        .isInstanceOf(HalveException.class);
    assertThatThrownBy(() -> CalibrationText.read(tokenizer, empty, 8, 3, 1))
        .isInstanceOf(HalveException.class);
  }
}
