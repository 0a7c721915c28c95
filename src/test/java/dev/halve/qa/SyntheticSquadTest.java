package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;
import java.util.function.BiFunction;
import java.util.stream.Collectors;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SyntheticSquadTest {
  private static final SquadDataset TRAIN = SyntheticSquad.train();
  private static final SquadDataset EVAL = SyntheticSquad.eval();

  private static Set<String> contexts(SquadDataset dataset) {
    return dataset.examples().stream().map(Example::context).collect(Collectors.toSet());
  }

  @Test
  void hasTheNumbersOfQuestionsAndParagraphsThatItSays() {
    assertThat(TRAIN.examples()).hasSize(2400);
    assertThat(contexts(TRAIN)).hasSize(400);
    assertThat(EVAL.examples()).hasSize(300);
    assertThat(contexts(EVAL)).hasSize(60);
    List<Example> all = new ArrayList<>(TRAIN.examples());
    all.addAll(EVAL.examples());
    assertThat(all).extracting(Example::id).doesNotHaveDuplicates();
    assertThat(all).extracting(e -> e.context() + e.question()).doesNotHaveDuplicates();
  }

  @Test
  void isTheSameEveryTime() {
    assertThat(SyntheticSquad.train()).isEqualTo(TRAIN);
    assertThat(SyntheticSquad.eval()).isEqualTo(EVAL);
    // The hash of every text, so that a change of the questions is a decision.
    assertThat(hash(TRAIN)).isEqualTo(-336664816);
    assertThat(hash(EVAL)).isEqualTo(1519385350);
  }

  @Test
  void isTheSameInEveryLocale() {
    Locale usual = Locale.getDefault();
    Locale.setDefault(Locale.forLanguageTag("ar-EG"));
    try {
      assertThat(SyntheticSquad.train()).isEqualTo(TRAIN);
      assertThat(SyntheticSquad.eval()).isEqualTo(EVAL);
    } finally {
      Locale.setDefault(usual);
    }
  }

  private static int hash(SquadDataset dataset) {
    List<String> texts = new ArrayList<>();
    for (Example example : dataset.examples()) {
      texts.addAll(List.of(example.id(), example.question(), example.context()));
      example.answers().forEach(answer -> texts.add(answer.text() + "@" + answer.start()));
    }
    return texts.hashCode();
  }

  @Test
  void everyAnswerStandsAtItsOffset() {
    for (SquadDataset dataset : List.of(TRAIN, EVAL)) {
      for (Example example : dataset.examples()) {
        Answer answer = example.answers().getFirst();
        assertThat(example.context().substring(answer.start(), answer.end()))
            .isEqualTo(answer.text());
      }
    }
  }

  @Test
  void isAFileThatReadsBack(@TempDir Path folder) {
    Path file = folder.resolve("synthetic-eval");
    EVAL.write(file);
    assertThat(SquadDataset.read(file)).isEqualTo(EVAL);
  }

  @Test
  void noNameOfTheEvaluationOccursInTheTraining() {
    Set<String> trained = new HashSet<>();
    for (Example example : TRAIN.examples()) {
      trained.addAll(AnswerNormalizer.words(example.context()));
    }
    List<String> parts = new ArrayList<>();
    for (SyntheticParagraph paragraph : SyntheticSquad.paragraphs(true)) {
      for (SyntheticParagraph.Fact fact : paragraph.facts()) {
        parts.addAll(distinctive(fact.thing.name));
        if (Set.of("person", "place").contains(fact.attribute.kind())) {
          parts.addAll(distinctive(fact.value));
        }
      }
    }
    assertThat(parts).hasSizeGreaterThan(300).doesNotContainAnyElementsOf(trained);
  }

  /** The words of a name that are not the kind of the thing. */
  private static List<String> distinctive(String name) {
    List<String> words = new ArrayList<>(AnswerNormalizer.words(name));
    words.removeAll(
        List.of("bridge", "library", "company", "festival", "mount", "lighthouse", "expedition"));
    return words;
  }

  @Test
  void everyFactHasDistractorsOfItsKind() {
    int distractors = 0;
    int facts = 0;
    for (SyntheticParagraph paragraph : SyntheticSquad.paragraphs(true)) {
      assertThat(paragraph.text().split("(?<=\\.) ")).hasSizeBetween(3, 8);
      for (SyntheticParagraph.Fact fact : paragraph.facts()) {
        List<SyntheticParagraph.Fact> others =
            paragraph.facts().stream()
                .filter(
                    other -> other != fact && other.attribute.kind().equals(fact.attribute.kind()))
                .toList();
        assertThat(others).isNotEmpty();
        assertThat(others).extracting(other -> other.value).doesNotContain(fact.value);
        distractors += others.size();
        facts++;
      }
    }
    assertThat((double) distractors / facts).isGreaterThan(2);
  }

  @Test
  void takingTheFirstOfTheRightKindScoresLow() {
    assertThat(score((example, spans) -> spans.getFirst())).isBetween(20.0, 40.0);
  }

  @Test
  void takingTheRightKindNearestToTheNameScoresNotHigh() {
    assertThat(
            score((example, spans) -> {
              int name = mention(example);
              return spans.stream()
                  .min(Comparator.comparingInt(span -> Math.abs(span.start() - name)))
                  .orElseThrow();
            }))
        .isBetween(35.0, 60.0);
  }

  /** Where the context first has the longest run of the question's words. */
  private static int mention(Example example) {
    String question = example.question();
    for (int length = question.length(); length > 0; length--) {
      for (int from = 0; from + length <= question.length(); from++) {
        int at = example.context().indexOf(question.substring(from, from + length));
        if (at >= 0) {
          return at;
        }
      }
    }
    return 0;
  }

  /** EM of an answerer that is told which spans of the context are of the right kind. */
  private static double score(BiFunction<Example, List<Answer>, Answer> answerer) {
    Map<String, SyntheticParagraph> paragraphs = new HashMap<>();
    SyntheticSquad.paragraphs(true)
        .forEach(paragraph -> paragraphs.put(paragraph.text(), paragraph));
    Map<String, String> predictions = new HashMap<>();
    for (Example example : EVAL.examples()) {
      String gold = example.answers().getFirst().text();
      List<SyntheticParagraph.Fact> facts = paragraphs.get(example.context()).facts();
      boolean reversed = facts.stream().anyMatch(fact -> fact.thing.name.equals(gold));
      String kind =
          facts.stream()
              .filter(fact -> fact.value.equals(gold))
              .map(fact -> fact.attribute.kind())
              .findFirst()
              .orElse("");
      List<Answer> spans = new ArrayList<>();
      for (SyntheticParagraph.Fact fact : facts) {
        if (reversed) {
          spans.add(new Answer(fact.thing.name, fact.nameStart));
        } else if (fact.attribute.kind().equals(kind)) {
          spans.add(new Answer(fact.value, fact.valueStart));
        }
      }
      spans.sort(Comparator.comparingInt(Answer::start));
      predictions.put(example.id(), answerer.apply(example, spans).text());
    }
    return SquadScore.of(EVAL, predictions).exactMatch();
  }

  @Test
  void rowsAreShort() {
    try (Tokenizer tokenizer = MiniLm.tokenizer()) {
      List<QaFeature> rows = QaFeatures.of(tokenizer, TRAIN.examples(), 128, 0).features();
      assertThat(rows).as("each fits").hasSameSizeAs(TRAIN.examples());
      assertThat(rows.stream().mapToInt(QaFeature::length).average().orElseThrow())
          .isBetween(60.0, 80.0);
      assertThat(rows).allSatisfy(row -> assertThat(row.endPosition()).isPositive());
    }
  }
}
