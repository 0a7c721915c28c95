package dev.halve.qa;

import dev.halve.core.HalveException;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.Json;
import java.nio.file.Path;
import java.util.List;
import tools.jackson.databind.node.ArrayNode;
import tools.jackson.databind.node.ObjectNode;

/**
 * Questions with gold answers, as SQuAD v1.1 has them (Rajpurkar et al. 2016): {@code {"data":
 * [{"paragraphs": [{"context": …, "qas": [{"id": …, "question": …, "answers": [{"text": …,
 * "answer_start": …}]}]}]}]}}, in the order of the file.
 *
 * @param name what to call it in messages and reports; the file's name where it came from one
 * @param relocated ids of the questions with an answer that was not at its {@code answer_start} but
 *     elsewhere in the context; the nearest place was taken
 */
public record SquadDataset(String name, List<Example> examples, List<String> relocated) {
  /** The most characters (code points) a context may have. */
  public static final int MAX_CONTEXT_CHARACTERS = 100_000;

  public SquadDataset {
    examples = List.copyOf(examples);
    relocated = List.copyOf(relocated);
  }

  public SquadDataset(String name, List<Example> examples) {
    this(name, examples, List.of());
  }

  /**
   * Reads a file as a stream: the memory needed is that of the questions and of one paragraph more.
   *
   * <p>An answer has to be in its context. Where it is not at {@code answer_start}, the occurrence
   * nearest to it is taken; where there is none, whitespace around the answer is forgiven.
   *
   * @throws HalveException naming the file and the question if the file is no SQuAD v1.1 file: not
   *     JSON, a field missing or of the wrong type, an id given twice, an empty question, no
   *     answer, an answer that is not in its context, a context of more than {@value
   *     #MAX_CONTEXT_CHARACTERS} characters, no question at all
   */
  public static SquadDataset read(Path file) {
    return new SquadReader(file).read();
  }

  /**
   * Writes a SQuAD v1.1 file, all or nothing: one article of this data set's name, a paragraph for
   * every run of examples with the same context.
   */
  public void write(Path file) {
    ObjectNode document = Json.MAPPER.createObjectNode();
    document.put("version", "1.1");
    ObjectNode article = document.putArray("data").addObject();
    article.put("title", name);
    ArrayNode paragraphs = article.putArray("paragraphs");
    String context = null;
    ArrayNode questions = null;
    for (Example example : examples) {
      if (questions == null || !example.context().equals(context)) {
        context = example.context();
        questions = paragraphs.addObject().put("context", context).putArray("qas");
      }
      ObjectNode question = questions.addObject();
      question.put("id", example.id()).put("question", example.question());
      ArrayNode answers = question.putArray("answers");
      for (Answer answer : example.answers()) {
        int codePoint = context.codePointCount(0, answer.start());
        answers.addObject().put("text", answer.text()).put("answer_start", codePoint);
      }
    }
    AtomicFile.write(file, Json.compact(document) + "\n");
  }
}
