package dev.halve.engine;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.util.List;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.node.ObjectNode;

/** {@code config.json}, as Hugging Face writes it for BERT. */
final class ConfigFile {
  private ConfigFile() {}

  /**
   * @param where the file, as messages name it
   * @throws HalveException for a field that is missing, of a wrong type, or that this engine cannot
   *     follow
   */
  static BertConfig read(JsonNode json, String where) {
    if (!json.isObject()) {
      throw new HalveException(where + ": expected an object with the model's configuration");
    }
    try {
      expect(json, "model_type", "bert");
      expect(json, "hidden_act", "gelu");
      expect(json, "position_embedding_type", "absolute");
      if (json.path("is_decoder").asBoolean(false)) {
        throw new HalveException("is_decoder is true; only encoders are supported");
      }
      return new BertConfig(
          integer(json, "vocab_size", -1),
          integer(json, "hidden_size", -1),
          integer(json, "num_hidden_layers", -1),
          integer(json, "num_attention_heads", -1),
          integer(json, "intermediate_size", -1),
          integer(json, "max_position_embeddings", 512),
          integer(json, "type_vocab_size", 2),
          number(json, "layer_norm_eps", 1e-12f),
          number(json, "hidden_dropout_prob", 0.1f),
          number(json, "attention_probs_dropout_prob", 0.1f));
    } catch (HalveException wrong) {
      throw wrong.in(where);
    }
  }

  private static void expect(JsonNode json, String field, String only) {
    JsonNode value = json.path(field);
    if (!value.isMissingNode() && !value.isNull() && !value.asString("").equals(only)) {
      throw new HalveException(
          "%s is %s; only \"%s\" is supported".formatted(field, Json.compact(value), only));
    }
  }

  private static int integer(JsonNode json, String field, int fallback) {
    JsonNode value = json.path(field);
    if (value.isMissingNode() && fallback >= 0) {
      return fallback;
    }
    if (!value.isIntegralNumber() || !value.canConvertToInt()) {
      throw new HalveException(field + " must be an integer, found " + found(value));
    }
    return value.intValue();
  }

  private static float number(JsonNode json, String field, float fallback) {
    JsonNode value = json.path(field);
    if (value.isMissingNode()) {
      return fallback;
    }
    if (!value.isNumber()) {
      throw new HalveException(field + " must be a number, found " + found(value));
    }
    return value.floatValue();
  }

  private static String found(JsonNode value) {
    return value.isMissingNode() ? "nothing" : Json.compact(value);
  }

  /**
   * Writes the shape into a copy of the model's own configuration, whose other fields stay.
   *
   * @param compressed names of the parameters that are stored as values and metadata
   */
  static ObjectNode write(BertConfig config, ObjectNode base, List<String> compressed) {
    ObjectNode json = base.deepCopy();
    json.putArray("architectures").add("BertForQuestionAnswering");
    json.put("model_type", "bert");
    json.put("vocab_size", config.vocabSize());
    json.put("hidden_size", config.hiddenSize());
    json.put("num_hidden_layers", config.numHiddenLayers());
    json.put("num_attention_heads", config.numAttentionHeads());
    json.put("intermediate_size", config.intermediateSize());
    json.put("max_position_embeddings", config.maxPositionEmbeddings());
    json.put("type_vocab_size", config.typeVocabSize());
    json.put("layer_norm_eps", Double.parseDouble(Float.toString(config.layerNormEps())));
    json.put("hidden_dropout_prob", Double.parseDouble(Float.toString(config.hiddenDropoutProb())));
    json.put(
        "attention_probs_dropout_prob",
        Double.parseDouble(Float.toString(config.attentionProbsDropoutProb())));
    json.put("hidden_act", "gelu");
    json.remove("halve");
    if (!compressed.isEmpty()) {
      ObjectNode halve = json.putObject("halve");
      halve.put("sparsity", "2:4");
      halve.put(
          "layout", "NAME.values and NAME.metadata (two 2-bit positions for each group of 4)");
      compressed.forEach(halve.putArray("compressed")::add);
    }
    return json;
  }
}
