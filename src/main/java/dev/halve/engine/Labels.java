package dev.halve.engine;

import dev.halve.core.HalveException;
import java.util.ArrayList;
import java.util.List;
import tools.jackson.databind.JsonNode;

/** The names of classes: {@code id2label} of {@code config.json}. */
record Labels(JsonNode config) {
  /**
   * @throws HalveException if there are names, but not as many as classes
   */
  List<String> of(int count) {
    JsonNode names = config.path("id2label");
    List<String> labels = new ArrayList<>(count);
    for (int id = 0; id < count; id++) {
      JsonNode name = names.path(String.valueOf(id));
      if (names.isObject() && !name.isString()) {
        throw new HalveException(
            "the head has %d classes, but id2label of config.json does not name class %d"
                .formatted(count, id));
      }
      labels.add(name.asString("LABEL_" + id));
    }
    return List.copyOf(labels);
  }
}
