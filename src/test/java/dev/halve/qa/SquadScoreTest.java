package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvFileSource;

/** The rules of the official evaluation of SQuAD v1.1, one by one. */
class SquadScoreTest {
  private static String normalized(String text) {
    return String.join(" ", AnswerNormalizer.words(text));
  }

  private static Example example(String id, String... golds) {
    List<Answer> answers = new ArrayList<>();
    for (String gold : golds) {
      answers.add(new Answer(gold, 0));
    }
    return new Example(id, "Who?", golds.length == 0 ? "" : golds[0], answers);
  }

  @Test
  void normalFormIsLowerCaseWithoutPunctuationArticlesAndExtraSpace() {
    assertThat(normalized("The  Beatles' \t (first) album!")).isEqualTo("beatles first album");
  }

  @Test
  void punctuationIsAsciiOnlyAndLeavesNoSpace() {
    assertThat(normalized("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")).isEmpty();
    assertThat(normalized("twenty-five U.S. $1,000")).isEqualTo("twentyfive us 1000");
    assertThat(normalized("“don’t” – «no» €5")).isEqualTo("“don’t” – «no» €5");
  }

  @Test
  void articlesAreWholeWordsOnlyAndPunctuationGoesFirst() {
    assertThat(normalized("a an the A An THE")).isEmpty();
    assertThat(normalized("theatre another aa")).isEqualTo("theatre another aa");
    assertThat(normalized("a-b the.x")).isEqualTo("ab thex");
    assertThat(normalized("x’a’y")).isEqualTo("x’ ’y");
  }

  @Test
  void wordBoundariesAndSpacesArePythons() {
    assertThat(normalized("the² ٣a aé")).isEqualTo("the² ٣a aé");
    assertThat(normalized("a\u0301")).as("a combining mark ends a word").isEqualTo("\u0301");
    assertThat(normalized("x\u00a0y\u2003z\u3000u\u001cv\u0085w")).isEqualTo("x y z u v w");
    assertThat(normalized("x\u200by")).isEqualTo("x\u200by");
  }

  @Test
  void f1CountsWordsAsOftenAsBothHaveThem() {
    assertThat(SquadScore.f1("x y", "y z")).isEqualTo(0.5);
    assertThat(SquadScore.f1("one two two", "two two three")).isCloseTo(2 / 3.0, within(1e-15));
    assertThat(SquadScore.f1("the cat", "cat")).isEqualTo(1);
    assertThat(SquadScore.f1("x", "y")).isZero();
  }

  @Test
  void twoAnswersOfNoWordsMatchExactlyButShareNoWord() {
    assertThat(SquadScore.exactMatch("the", "a")).isTrue();
    assertThat(SquadScore.f1("the", "a")).isZero();
  }

  @Test
  void scoresAreTheBestOverSeveralGoldsForEachMeasureAlone() {
    SquadDataset dataset =
        new SquadDataset("d", List.of(example("1", "red", "red house", "a red car")));
    assertThat(SquadScore.of(dataset, Map.of("1", "the red house!")))
        .isEqualTo(new SquadScore(100, 100, 1, List.of()));
    assertThat(SquadScore.of(dataset, Map.of("1", "red car park")))
        .isEqualTo(new SquadScore(0, 80, 1, List.of()));
  }

  @Test
  void unansweredQuestionsCountAsWrongAndAreNamed() {
    SquadDataset dataset =
        new SquadDataset(
            "d",
            List.of(example("1", "x"), example("2", "y"), example("3", "z"), example("4", "u v")));
    SquadScore score = SquadScore.of(dataset, Map.of("3", "z", "4", "u", "99", "not asked"));
    assertThat(score.exactMatch()).isEqualTo(25);
    assertThat(score.f1()).isCloseTo(100 * (1 + 2 / 3.0) / 4, within(1e-9));
    assertThat(score.total()).isEqualTo(4);
    assertThat(score.unanswered()).containsExactly("1", "2");
    assertThat(SquadScore.of(dataset, Map.of()).f1()).isZero();
  }

  @Test
  void anEmptyPredictionIsAnAnswer() {
    SquadDataset dataset = new SquadDataset("d", List.of(example("1", "x")));
    assertThat(SquadScore.of(dataset, Map.of("1", "")))
        .isEqualTo(new SquadScore(0, 0, 1, List.of()));
  }

  @Test
  void refusesWhatCannotBeScored() {
    assertThatThrownBy(() -> SquadScore.of(new SquadDataset("d", List.of()), Map.of()))
        .isInstanceOf(HalveException.class)
        .hasMessage("d has no questions to score");
    assertThatThrownBy(
            () -> SquadScore.of(new SquadDataset("d", List.of(example("q7"))), Map.of("q7", "x")))
        .isInstanceOf(HalveException.class)
        .hasMessage("d: question \"q7\" has no gold answer to score with");
  }

  /** Pairs of texts as JSON strings with what Python's own str and re make of the rules. */
  @ParameterizedTest
  @CsvFileSource(resources = "squad-score.tsv", delimiter = '\t', quoteCharacter = '\u0001')
  void agreesWithPythonOnUnicode(
      String prediction, String gold, String normalPrediction, String normalGold, double f1) {
    assertThat(normalized(json(prediction))).isEqualTo(json(normalPrediction));
    assertThat(normalized(json(gold))).isEqualTo(json(normalGold));
    assertThat(SquadScore.exactMatch(json(prediction), json(gold)))
        .isEqualTo(normalPrediction.equals(normalGold));
    assertThat(SquadScore.f1(json(prediction), json(gold))).isCloseTo(f1, within(1e-12));
  }

  private static String json(String quoted) {
    return Json.MAPPER.readValue(quoted, String.class);
  }
}
