package dev.halve.qa;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Set;
import tools.jackson.core.JsonParser;
import tools.jackson.core.JsonToken;
import tools.jackson.databind.JsonNode;

/** One reading of one SQuAD v1.1 file. */
final class SquadReader {
  private final Path file;
  private final List<Example> examples = new ArrayList<>();
  private final List<String> relocated = new ArrayList<>();
  private final Set<String> ids = new HashSet<>();

  SquadReader(Path file) {
    this.file = file;
  }

  SquadDataset read() {
    if (Json.read(file, this::document).isEmpty()) {
      throw error("no questions; give a SQuAD v1.1 file");
    }
    return new SquadDataset(file.getFileName().toString(), examples, relocated);
  }

  private List<Example> document(JsonParser json) {
    if (json.nextToken() != JsonToken.START_OBJECT) {
      throw error("not a SQuAD file: expected an object with \"data\" at its top");
    }
    boolean found = false;
    for (String name = json.nextName(); name != null; name = json.nextName()) {
      json.nextToken();
      if (name.equals("data")) {
        found = true;
        articles(json);
      } else {
        json.skipChildren();
      }
    }
    if (!found) {
      throw error("not a SQuAD file: there is no \"data\" at its top");
    }
    if (json.nextToken() != null) {
      throw error("more text after the end of the JSON; is it two files in one?");
    }
    return examples;
  }

  private void articles(JsonParser json) {
    expect(json, JsonToken.START_ARRAY, "data", "an array");
    for (int article = 0; json.nextToken() != JsonToken.END_ARRAY; article++) {
      String where = "data[" + article + "]";
      expect(json, JsonToken.START_OBJECT, where, "an object");
      boolean found = false;
      for (String name = json.nextName(); name != null; name = json.nextName()) {
        json.nextToken();
        if (name.equals("paragraphs")) {
          found = true;
          paragraphs(json, where + ".paragraphs");
        } else {
          json.skipChildren();
        }
      }
      if (!found) {
        throw error(where + " has no \"paragraphs\"; the file must have the layout of SQuAD v1.1");
      }
    }
  }

  private void paragraphs(JsonParser json, String where) {
    expect(json, JsonToken.START_ARRAY, where, "an array");
    for (int paragraph = 0; json.nextToken() != JsonToken.END_ARRAY; paragraph++) {
      expect(json, JsonToken.START_OBJECT, where + "[" + paragraph + "]", "an object");
      paragraph(json.readValueAsTree(), where + "[" + paragraph + "]");
    }
  }

  private void paragraph(JsonNode paragraph, String where) {
    String context = string(paragraph, "context", where);
    JsonNode questions = array(paragraph, "qas", where);
    CodePoints codePoints = new CodePoints(context);
    for (int i = 0; i < questions.size(); i++) {
      JsonNode question = questions.get(i);
      String there = where + ".qas[" + i + "]";
      if (!question.isObject()) {
        throw error(there + " must be an object, not " + kind(question));
      }
      String id = string(question, "id", there);
      if (!ids.add(id)) {
        throw error("question id " + Quoted.of(id) + " occurs twice; ids must be unique");
      }
      String named = "question " + Quoted.of(id);
      if (codePoints.count() > SquadDataset.MAX_CONTEXT_CHARACTERS) {
        throw error(
            "%s has a context of %,d characters; at most %,d are read: split it into paragraphs"
                .formatted(named, codePoints.count(), SquadDataset.MAX_CONTEXT_CHARACTERS));
      }
      String text = string(question, "question", named);
      if (text.isBlank()) {
        throw error(named + " is empty; give it a text or remove it");
      }
      examples.add(new Example(id, text, context, answers(question, named, codePoints)));
    }
  }

  private List<Answer> answers(JsonNode question, String named, CodePoints context) {
    JsonNode nodes = array(question, "answers", named);
    if (nodes.isEmpty()) {
      throw error(
          named
              + " has no answers; SQuAD v1.1 gives one at least (v2.0's unanswerable questions"
              + " have to be removed)");
    }
    List<Answer> answers = new ArrayList<>(nodes.size());
    boolean moved = false;
    for (JsonNode node : nodes) {
      if (!node.isObject()) {
        throw error(named + " has an answer that is " + kind(node) + " in place of an object");
      }
      String text = string(node, "text", named + ": answer");
      JsonNode start = node.get("answer_start");
      if (start == null || !start.isIntegralNumber()) {
        throw error(named + ": answer needs a whole number \"answer_start\", has " + kind(start));
      }
      int given = start.canConvertToInt() ? start.intValue() : -1;
      Answer answer = locate(text, given, context);
      if (answer == null) {
        throw error(
            "%s: the answer %s is not in its context; correct it or remove the question"
                .formatted(named, Quoted.of(text)));
      }
      moved |= answer.start() != context.unit(given);
      answers.add(answer);
    }
    if (moved) {
      relocated.add(string(question, "id", named));
    }
    return answers;
  }

  /** The answer where the file says, else nearest to there, else without whitespace around it. */
  private static Answer locate(String text, int codePoint, CodePoints context) {
    if (text.isBlank()) {
      return null;
    }
    int start = context.unit(codePoint);
    if (start >= 0 && context.text().startsWith(text, start)) {
      return new Answer(text, start);
    }
    int nearest = nearest(text, start, context.text());
    if (nearest < 0) {
      text = text.strip();
      nearest = nearest(text, start, context.text());
    }
    return nearest < 0 ? null : new Answer(text, nearest);
  }

  private static int nearest(String text, int start, String context) {
    int before = context.lastIndexOf(text, start);
    int after = context.indexOf(text, Math.max(start, 0));
    if (before < 0 || after < 0) {
      return Math.max(before, after);
    }
    return start - before <= after - start ? before : after;
  }

  private JsonNode array(JsonNode owner, String name, String where) {
    JsonNode value = owner.get(name);
    if (value == null || !value.isArray()) {
      throw error("%s needs an array \"%s\", has %s".formatted(where, name, kind(value)));
    }
    return value;
  }

  private String string(JsonNode owner, String name, String where) {
    JsonNode value = owner.get(name);
    if (value == null || !value.isString()) {
      throw error("%s needs a string \"%s\", has %s".formatted(where, name, kind(value)));
    }
    return CodePoints.wellFormed(value.stringValue());
  }

  private void expect(JsonParser json, JsonToken token, String where, String what) {
    if (json.currentToken() != token) {
      throw error(where + " must be " + what + "; the file must have the layout of SQuAD v1.1");
    }
  }

  private static String kind(JsonNode value) {
    if (value == null) {
      return "none";
    }
    return switch (value.getNodeType()) {
      case ARRAY -> "an array";
      case OBJECT -> "an object";
      case STRING -> "a string";
      case NUMBER -> "the number " + Quoted.of(value.toString());
      case BOOLEAN -> "a boolean";
      case NULL -> "null";
      default -> "something else";
    };
  }

  private HalveException error(String message) {
    return new HalveException(file + ": " + message);
  }
}
