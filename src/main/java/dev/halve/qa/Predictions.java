package dev.halve.qa;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Map;
import tools.jackson.core.JsonParser;
import tools.jackson.core.JsonToken;

/** Files of predicted answers, {@code {"question id": "text", …}}, as SQuAD's own script reads. */
public final class Predictions {
  private Predictions() {}

  /**
   * Predicted texts by question id, in the order of the file.
   *
   * @throws HalveException naming the file and the id if it is not one JSON object of strings or an
   *     id occurs twice
   */
  public static Map<String, String> read(Path file) {
    return Json.read(file, json -> document(file, json));
  }

  private static Map<String, String> document(Path file, JsonParser json) {
    if (json.nextToken() != JsonToken.START_OBJECT) {
      throw new HalveException(file + ": not a predictions file: expected {\"id\": \"text\", …}");
    }
    Map<String, String> texts = new LinkedHashMap<>();
    for (String id = json.nextName(); id != null; id = json.nextName()) {
      if (json.nextToken() != JsonToken.VALUE_STRING) {
        throw new HalveException(
            "%s: the prediction for %s must be a string (\"\" for no answer)"
                .formatted(file, Quoted.of(id)));
      }
      texts.put(CodePoints.wellFormed(id), CodePoints.wellFormed(json.getString()));
    }
    if (json.nextToken() != null) {
      throw new HalveException(file + ": more text after the end of the JSON object");
    }
    return texts;
  }

  /** Writes a predictions file, all or nothing. */
  public static void write(Path file, Map<String, String> texts) {
    Json.write(file, texts);
  }
}
