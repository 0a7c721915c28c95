package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import net.jqwik.api.Arbitraries;
import net.jqwik.api.Arbitrary;
import net.jqwik.api.Combinators;
import net.jqwik.api.ForAll;
import net.jqwik.api.Property;
import net.jqwik.api.Provide;
import net.jqwik.api.constraints.IntRange;
import net.jqwik.api.lifecycle.AfterContainer;
import net.jqwik.api.lifecycle.BeforeContainer;

/** What holds for every text. */
class QaPropertiesTest {
  private static Tokenizer tokenizer;

  @BeforeContainer
  static void load() {
    tokenizer = MiniLm.tokenizer();
  }

  @AfterContainer
  static void close() {
    tokenizer.close();
  }

  /** Words, spaces, marks and code points of every plane. */
  @Provide
  Arbitrary<String> texts() {
    Arbitrary<String> words =
        Arbitraries.of(
            "a", "the", "An", "cat", "Zoë", "U.S.", "3,000", "😀", "中文", "e\u0301", " ", "  ", "\n",
            "-", "’");
    Arbitrary<String> codePoints =
        Arbitraries.integers()
            .between(0, Character.MAX_CODE_POINT)
            .filter(c -> c < Character.MIN_SURROGATE || c > Character.MAX_SURROGATE)
            .map(Character::toString);
    return Arbitraries.oneOf(words, words, words, codePoints)
        .list()
        .ofMaxSize(40)
        .map(parts -> String.join("", parts));
  }

  /** A context with an answer that is a part of it between code points. */
  @Provide
  Arbitrary<Example> examples() {
    return Combinators.combine(
            texts(), Arbitraries.doubles().between(0, 1), Arbitraries.doubles().between(0, 1))
        .as((text, from, length) -> {
          String context = "Bo " + text;
          int count = context.codePointCount(0, context.length());
          int first = (int) (from * (count - 1));
          int last = first + 1 + (int) (length * (count - first - 1));
          int start = context.offsetByCodePoints(0, first);
          String answer = context.substring(start, context.offsetByCodePoints(0, last));
          return answer.isBlank()
              ? new Example("q", "Who is it?", context, List.of(new Answer("Bo", 0)))
              : new Example("q", "Who is it?", context, List.of(new Answer(answer, start)));
        });
  }

  @Property(tries = 300, seed = "1")
  void codePointsAndUnitsCorrespond(@ForAll("texts") String text) {
    CodePoints codePoints = new CodePoints(text);
    int count = text.codePointCount(0, text.length());
    assertThat(codePoints.count()).isEqualTo(count);
    for (int point = 0; point <= count; point++) {
      assertThat(codePoints.unit(point)).isEqualTo(text.offsetByCodePoints(0, point));
    }
    assertThat(codePoints.unit(-1)).isEqualTo(-1);
    assertThat(codePoints.unit(count + 1)).isEqualTo(-1);
    assertThat(CodePoints.wellFormed(text)).isSameAs(text);
  }

  @Property(tries = 200, seed = "2")
  void filesKeepEveryText(@ForAll("examples") Example example) throws IOException {
    Path file = Files.createTempFile("halve", ".json");
    try {
      SquadDataset dataset = new SquadDataset(file.getFileName().toString(), List.of(example));
      dataset.write(file);
      assertThat(SquadDataset.read(file)).isEqualTo(dataset);
    } finally {
      Files.deleteIfExists(file);
    }
  }

  @Property(tries = 500, seed = "3")
  void scoresAreScores(@ForAll("texts") String prediction, @ForAll("texts") String gold) {
    double f1 = SquadScore.f1(prediction, gold);
    assertThat(f1).isBetween(0.0, 1.0).isEqualTo(SquadScore.f1(gold, prediction));
    List<String> words = AnswerNormalizer.words(gold);
    assertThat(SquadScore.exactMatch(gold, gold)).isTrue();
    assertThat(SquadScore.f1(gold, gold)).isEqualTo(words.isEmpty() ? 0 : 1);
    assertThat(
            SquadScore.exactMatch(
                "The " + gold.toUpperCase(java.util.Locale.ROOT) + "!?",
                gold.toUpperCase(java.util.Locale.ROOT)))
        .isTrue();
    if (SquadScore.exactMatch(prediction, gold) && !words.isEmpty()) {
      assertThat(f1).isEqualTo(1);
    }
  }

  @Property(tries = 300, seed = "4")
  void windowsCoverTheContextAndMarkTheAnswer(
      @ForAll("examples") Example example,
      @ForAll @IntRange(min = 12, max = 40) int maxLength,
      @ForAll @IntRange(min = 0, max = 4) int docStride) {
    Tokens context = tokenizer.encode(example.context());
    List<QaFeature> rows =
        QaFeatures.of(tokenizer, List.of(example), maxLength, docStride).features();
    List<Integer> ids = new ArrayList<>();
    Answer answer = example.answers().getFirst();
    for (QaFeature row : rows) {
      assertThat(row.length()).isLessThanOrEqualTo(maxLength);
      int repeated = row == rows.getFirst() ? 0 : docStride;
      for (int i = repeated; i < row.windowTokens(); i++) {
        ids.add(row.inputIds()[row.contextFrom() + i]);
      }
      if (row.startPosition() > 0) {
        assertThat(row.contextStart(row.startPosition())).isLessThanOrEqualTo(answer.start());
        assertThat(row.contextEnd(row.endPosition())).isGreaterThanOrEqualTo(answer.end());
      }
    }
    assertThat(ids).isEqualTo(Arrays.stream(context.ids()).boxed().toList());
  }
}
