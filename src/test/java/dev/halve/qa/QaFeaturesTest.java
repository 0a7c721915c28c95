package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class QaFeaturesTest {
  private static final Path DATA = Path.of("src/test/resources/dev/halve/qa");

  private static Tokenizer tokenizer;

  @BeforeAll
  static void load() {
    tokenizer = MiniLm.tokenizer();
  }

  @AfterAll
  static void close() {
    tokenizer.close();
  }

  private static Example example(String question, String context, String answer, int start) {
    return new Example("q", question, context, List.of(new Answer(answer, start)));
  }

  private static List<QaFeature> rows(Example example, int maxLength, int docStride) {
    return QaFeatures.of(tokenizer, List.of(example), maxLength, docStride).features();
  }

  /**
   * Rows of {@code [max_length, stride, example, ids, types, offsets in code points or null, start,
   * end]}, computed by Hugging Face's tokenizers 0.22.2 in Python.
   */
  @ParameterizedTest
  @CsvSource({"384, 0", "40, 0", "40, 9", "32, 16"})
  void agreesWithHuggingFaceOnWindowsOffsetsAndLabels(int maxLength, int docStride)
      throws IOException {
    SquadDataset dataset = SquadDataset.read(DATA.resolve("features-squad.json"));
    QaFeatures features = QaFeatures.of(tokenizer, dataset.examples(), maxLength, docStride);
    List<String> rows = new ArrayList<>();
    for (QaFeature row : features.features()) {
      String context = features.examples().get(row.example()).context();
      List<int[]> offsets = new ArrayList<>();
      for (int position = 0; position < row.length(); position++) {
        offsets.add(
            row.isContext(position)
                ? new int[] {
                  context.codePointCount(0, row.contextStart(position)),
                  context.codePointCount(0, row.contextEnd(position))
                }
                : null);
      }
      rows.add(
          Json.compact(
              Arrays.asList(
                  maxLength,
                  docStride,
                  row.example(),
                  row.inputIds(),
                  row.tokenTypeIds(),
                  offsets,
                  row.startPosition(),
                  row.endPosition())));
    }
    String prefix = "[" + maxLength + "," + docStride + ",";
    assertThat(rows)
        .containsExactlyElementsOf(
            Files.readAllLines(DATA.resolve("features.jsonl")).stream()
                .filter(line -> line.startsWith(prefix))
                .toList())
        .hasSizeGreaterThanOrEqualTo(dataset.examples().size());
  }

  @Test
  void marksTheTokensOfTheAnswer() {
    QaFeature row =
        rows(example("Who?", "It was Marta Quennell, of Brest.", "Marta Quennell", 7), 64, 0)
            .getFirst();
    assertThat(
            "It was Marta Quennell, of Brest."
                .substring(
                    row.contextStart(row.startPosition()), row.contextEnd(row.endPosition())))
        .isEqualTo("Marta Quennell");
  }

  @Test
  void windowsCoverTheContextAndRepeatTheStride() {
    String context = "one two three four five six seven eight nine ten eleven twelve";
    Example example = example("Which number?", context, "nine", context.indexOf("nine"));
    List<QaFeature> apart = rows(example, 11, 0);
    assertThat(apart).extracting(QaFeature::windowFrom).containsExactly(0, 5, 10);
    assertThat(apart).extracting(QaFeature::windowTokens).containsExactly(5, 5, 2);
    assertThat(apart).extracting(QaFeature::length).containsExactly(11, 11, 8);
    assertThat(apart).extracting(QaFeature::startPosition).containsExactly(0, 8, 0);
    List<QaFeature> overlapping = rows(example, 11, 2);
    assertThat(overlapping).extracting(QaFeature::windowFrom).containsExactly(0, 3, 6, 9);
    assertThat(overlapping).extracting(QaFeature::windowTokens).containsExactly(5, 5, 5, 3);
    assertThat(rows(example, 18, 17)).as("no window where all fits").hasSize(1);
  }

  @Test
  void anAnswerThatIsCutGetsNoPosition() {
    String context = "one two three four five six seven eight nine ten";
    Example example = example("Which number?", context, "five six", context.indexOf("five"));
    assertThat(rows(example, 11, 0))
        .allSatisfy(row -> assertThat(row.startPosition() + row.endPosition()).isZero());
  }

  @Test
  void rowsOfAQuestionStandTogetherInOrder() {
    String context = "one two three four five six seven eight nine ten";
    List<Example> examples = new ArrayList<>();
    for (int i = 0; i < 600; i++) {
      examples.add(new Example("q" + i, "Which number is " + i + "?", context, List.of()));
    }
    QaFeatures features = QaFeatures.of(tokenizer, examples, 14, 0);
    int last = 0;
    for (QaFeature row : features.features()) {
      assertThat(row.example()).isBetween(last, last + 1);
      last = row.example();
      assertThat(row.startPosition()).isZero();
    }
    assertThat(last).isEqualTo(599);
    assertThat(features.features())
        .extracting(QaFeature::context)
        .allMatch(features.features().getFirst().context()::equals);
  }

  @Test
  void namesTheQuestionThatLeavesNoRoom() {
    Example longQuestion = example("why ".repeat(20), "because", "because", 0);
    assertThat(rows(longQuestion, 24, 0)).hasSize(1);
    assertThatThrownBy(() -> rows(longQuestion, 23, 0))
        .isInstanceOf(HalveException.class)
        .hasMessage(
            "question \"q\" has 20 tokens, which leaves no room for its context in rows of 23;"
                + " raise max_length or shorten it");
  }

  @Test
  void namesAStrideThatGoesNowhere() {
    Example example = example("Which number?", "one two three four five six", "one", 0);
    assertThatThrownBy(() -> rows(example, 9, 3))
        .isInstanceOf(HalveException.class)
        .hasMessage(
            "question \"q\" leaves 3 tokens of a row to its context, and doc_stride repeats 3 of"
                + " them; lower doc_stride");
    assertThatThrownBy(() -> rows(example, 9, -1)).isInstanceOf(HalveException.class);
  }

  @Test
  void anEmptyContextGivesARowWithoutContext() {
    List<QaFeature> rows = rows(new Example("q", "Why?", "", List.of()), 16, 0);
    assertThat(rows).hasSize(1);
    assertThat(rows.getFirst().inputIds()).containsExactly(101, 2339, 1029, 102, 102);
    assertThat(rows.getFirst().windowTokens()).isZero();
  }

  @Test
  void takesContextsOfAnyLength() {
    String context = "word after word ".repeat(20_000) + "end.";
    List<QaFeature> rows =
        rows(example("Where is the end?", context, "end", context.length() - 4), 384, 128);
    assertThat(rows).hasSizeGreaterThan(200);
    assertThat(rows.getLast().startPosition()).isPositive();
    assertThat(rows.stream().filter(row -> row.startPosition() > 0)).hasSizeBetween(1, 2);
  }
}
