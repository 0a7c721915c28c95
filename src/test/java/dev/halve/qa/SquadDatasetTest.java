package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class SquadDatasetTest {
  @TempDir Path folder;

  private Path file(String json) {
    try {
      return Files.writeString(folder.resolve("squad.json"), json);
    } catch (IOException e) {
      throw new AssertionError(e);
    }
  }

  private SquadDataset read(String json) {
    return SquadDataset.read(file(json));
  }

  /** A file of one paragraph, its JSON written with ' for ". */
  private SquadDataset paragraph(String json) {
    return read(
        quote("{'version': '1.1', 'data': [{'title': 't', 'paragraphs': [" + json + "]}]}"));
  }

  private static String quote(String json) {
    return json.replace('\'', '"');
  }

  private static String question(String context, String text, int start) {
    return "{'context': '%s', 'qas': [{'id': 'q1', 'question': 'Who?', 'answers': [{'answer_start': %d, 'text': '%s'}]}]}"
        .formatted(context, start, text);
  }

  @Test
  void readsQuestionsInTheOrderOfTheFileWhateverTheOrderOfFields() {
    SquadDataset dataset =
        read(
            quote(
                """
                {'data': [
                  {'paragraphs': [
                    {'qas': [
                      {'answers': [{'answer_start': 0, 'text': 'Ada'}, {'text': 'Ada L', 'answer_start': 0, 'x': {}}],
                       'question': ' Who? ', 'id': 'b'},
                      {'answers': [{'answer_start': 13, 'text': 'London'}], 'question': 'Where?', 'id': 'a'}],
                     'context': 'Ada L was in London.'}],
                   'title': 'people'},
                  {'title': 'cats', 'paragraphs': [
                    {'context': 'A cat.', 'extra': [1, [2]], 'qas': [
                      {'id': 'c', 'question': 'What?', 'answers': [{'answer_start': 2, 'text': 'cat'}]}]}]}],
                 'version': '1.1'}
                """));
    assertThat(dataset.examples())
        .containsExactly(
            new Example(
                "b",
                " Who? ",
                "Ada L was in London.",
                List.of(new Answer("Ada", 0), new Answer("Ada L", 0))),
            new Example("a", "Where?", "Ada L was in London.", List.of(new Answer("London", 13))),
            new Example("c", "What?", "A cat.", List.of(new Answer("cat", 2))));
    assertThat(dataset.name()).isEqualTo("squad.json");
    assertThat(dataset.relocated()).isEmpty();
    assertThat(dataset.examples().get(0).context()).isSameAs(dataset.examples().get(1).context());
  }

  @Test
  void countsAnswerStartInCodePoints() {
    SquadDataset dataset = paragraph(question("😀😀 Zoë 👩‍🚀 met Bo 𝒳.", "Bo", 15));
    Answer answer = dataset.examples().getFirst().answers().getFirst();
    assertThat(dataset.relocated()).isEmpty();
    assertThat(answer.start()).isEqualTo(19);
    assertThat(dataset.examples().getFirst().context().substring(answer.start(), answer.end()))
        .isEqualTo("Bo");
  }

  @Test
  void findsAnAnswerThatIsElsewhereInItsContextAndSaysSo() {
    SquadDataset near = paragraph(question("Bo and Bo and Bo", "Bo", 9));
    assertThat(near.examples().getFirst().answers()).containsExactly(new Answer("Bo", 7));
    assertThat(near.relocated()).containsExactly("q1");
    for (int start : new int[] {-5, 1_000, Integer.MAX_VALUE}) {
      assertThat(paragraph(question("Bo", "Bo", start)).examples().getFirst().answers())
          .containsExactly(new Answer("Bo", 0));
    }
    SquadDataset padded = paragraph(question("So Bo it is", " Bo\\n", 2));
    assertThat(padded.examples().getFirst().answers()).containsExactly(new Answer("Bo", 3));
    assertThat(padded.relocated()).containsExactly("q1");
  }

  @Test
  void replacesHalvesOfSurrogatePairs() {
    SquadDataset dataset = paragraph(question("a\\ud800b Bo", "\\ud800b", 1));
    assertThat(dataset.examples().getFirst().context()).isEqualTo("a\ufffdb Bo");
    assertThat(dataset.examples().getFirst().answers()).containsExactly(new Answer("\ufffdb", 1));
  }

  @Test
  void writesWhatItReads() throws IOException {
    SquadDataset dataset =
        new SquadDataset(
            "out.json",
            List.of(
                new Example("1", "Who 😀?", "😀 \"Bo\"\n met Zoë", List.of(new Answer("Bo", 4))),
                new Example("2", "Whom?", "😀 \"Bo\"\n met Zoë", List.of(new Answer("Zoë", 13))),
                new Example("3", "And?", "Zoë", List.of(new Answer("Zoë", 0)))));
    Path file = folder.resolve("new/out.json");
    dataset.write(file);
    assertThat(SquadDataset.read(file)).isEqualTo(dataset);
    assertThat(Files.readString(file))
        .contains("\"answer_start\":3")
        .containsOnlyOnce("met Zoë\",")
        .contains("\"title\":\"out.json\"");
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "[]|not a SQuAD file: expected an object",
        "{'datum': []}|there is no \"data\"",
        "{'data': {}}|data must be an array",
        "{'data': [3]}|data[0] must be an object",
        "{'data': [{'title': 't'}]}|data[0] has no \"paragraphs\"",
        "{'data': [{'paragraphs': [[]]}]}|data[0].paragraphs[0] must be an object",
        "{'data': []}|no questions",
        "{'data': [{'paragraphs': [{'context': 'c', 'qas': []}]}]}|no questions",
        "{'data': [],|not valid JSON at line 1",
        "{'data': []} {}|more text after the end",
        "{'data': [], 'data': []}|not valid JSON at line 1, column",
        "nonsense|not valid JSON at line 1, column 1",
        "``|not a SQuAD file",
      })
  void namesWhatIsWrongWithAFile(String json, String message) {
    assertThatThrownBy(() -> read(quote(json)))
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith(folder.resolve("squad.json") + ": ")
        .hasMessageContaining(message)
        .message()
        .hasLineCount(1);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "{'qas': []}|data[0].paragraphs[0] needs a string \"context\", has none",
        "{'context': null, 'qas': []}|needs a string \"context\", has null",
        "{'context': 'c'}|data[0].paragraphs[0] needs an array \"qas\", has none",
        "{'context': 'c', 'qas': [1]}|data[0].paragraphs[0].qas[0] must be an object, not the"
            + " number \"1\"",
        "{'context': 'c', 'qas': [{'id': 7}]}|qas[0] needs a string \"id\", has the number \"7\"",
        "{'context': 'c', 'qas': [{'id': 'x'}]}|question \"x\" needs a string \"question\", has"
            + " none",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': ' \\n'}]}|question \"x\" is empty",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': 'q'}]}|question \"x\" needs an array"
            + " \"answers\"",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': 'q', 'answers': {'text':"
            + " []}}]}|\"answers\", has an object",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': 'q', 'answers': []}]}|question \"x\" has"
            + " no answers",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': 'q', 'answers': ['c']}]}|question \"x\""
            + " has an answer that is a string",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': 'q', 'answers': [{'text': 1}]}]}|needs a"
            + " string \"text\"",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': 'q', 'answers': [{'text':"
            + " 'c'}]}]}|\"answer_start\", has none",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': 'q', 'answers': [{'text': 'c',"
            + " 'answer_start': 0.5}]}]}|whole number \"answer_start\"",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': 'q', 'answers': [{'text': 'd',"
            + " 'answer_start': 0}]}]}|question \"x\": the answer \"d\" is not in its context",
        "{'context': 'c', 'qas': [{'id': 'x', 'question': 'q', 'answers': [{'text': '',"
            + " 'answer_start': 0}]}]}|question \"x\": the answer \"\" is not in its context",
        "{'context': '', 'qas': [{'id': 'x', 'question': 'q', 'answers': [{'text': 'd',"
            + " 'answer_start': 0}]}]}|the answer \"d\" is not in its context",
      })
  void namesTheQuestionThatIsWrong(String json, String message) {
    assertThatThrownBy(() -> paragraph(json))
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith(folder.resolve("squad.json") + ": ")
        .hasMessageContaining(message)
        .message()
        .hasLineCount(1);
  }

  @Test
  void namesAnIdThatOccursTwice() {
    assertThatThrownBy(() -> paragraph(question("Bo", "Bo", 0) + "," + question("Bo", "Bo", 0)))
        .hasMessageContaining("question id \"q1\" occurs twice");
  }

  @Test
  void refusesContextsOfMoreThanAHundredThousandCharacters() {
    String longest = "😀".repeat(99_998) + "Bo";
    assertThat(paragraph(question(longest, "Bo", 99_998)).relocated()).isEmpty();
    assertThatThrownBy(() -> paragraph(question(longest + "!", "Bo", 99_998)))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining(
            "question \"q1\" has a context of 100,001 characters; at most 100,000");
  }

  @Test
  void shortensLongAnswersAndKeepsMessagesOnOneLine() {
    assertThatThrownBy(() -> paragraph(question("c", "line\\n" + "x".repeat(500), 0)))
        .message()
        .hasLineCount(1)
        .contains("\"line\\u000axxx", "x…x")
        .hasSizeLessThan(300);
  }

  @Test
  void namesAFileThatIsNotThereOrIsNoText() throws IOException {
    assertThatThrownBy(() -> SquadDataset.read(folder.resolve("none.json")))
        .hasMessage("cannot read " + folder.resolve("none.json") + ": no such file or folder");
    assertThatThrownBy(() -> SquadDataset.read(folder))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining(folder.toString());
    Path latin = folder.resolve("latin.json");
    Files.write(latin, "{\"café\": []}".getBytes(StandardCharsets.ISO_8859_1));
    assertThatThrownBy(() -> SquadDataset.read(latin))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("latin.json: not valid JSON");
  }
}
