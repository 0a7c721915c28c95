package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Collectors;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.node.ObjectNode;

/** {@code config.json}, as Hugging Face writes it for each {@link ModelFamily}. */
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
      ModelFamily family = family(json);
      expect(json, family == ModelFamily.DISTILBERT ? "activation" : "hidden_act", "gelu");
      expect(json, "position_embedding_type", "absolute");
      if (json.path("is_decoder").asBoolean(false)) {
        throw new HalveException("is_decoder is true; only encoders are supported");
      }
      return family == ModelFamily.DISTILBERT ? distilBert(json) : bert(json, family);
    } catch (HalveException wrong) {
      throw wrong.in(where);
    }
  }

  private static ModelFamily family(JsonNode json) {
    JsonNode type = json.path("model_type");
    if (type.isMissingNode() || type.isNull()) {
      return ModelFamily.BERT;
    }
    return ModelFamily.of(type.asString(""))
        .orElseThrow(() ->
            new HalveException(
                "model_type is %s; supported are %s"
                    .formatted(
                        Json.compact(type),
                        Arrays.stream(ModelFamily.values())
                            .map(ModelFamily::modelType)
                            .collect(Collectors.joining(", ")))));
  }

  private static BertConfig bert(JsonNode json, ModelFamily family) {
    int hidden = integer(json, "hidden_size", family == ModelFamily.ELECTRA ? 256 : -1);
    int positions = integer(json, "max_position_embeddings", 512) - positionOffset(json, family);
    if (positions < 1) {
      throw new HalveException(
          "max_position_embeddings leaves no position after pad_token_id; expected 514 or so");
    }
    return new BertConfig(
        integer(json, "vocab_size", -1),
        hidden,
        integer(json, "num_hidden_layers", -1),
        integer(json, "num_attention_heads", -1),
        integer(json, "intermediate_size", -1),
        positions,
        integer(json, "type_vocab_size", 2),
        number(json, "layer_norm_eps", 1e-12f),
        number(json, "hidden_dropout_prob", 0.1f),
        number(json, "attention_probs_dropout_prob", 0.1f),
        family == ModelFamily.ELECTRA ? integer(json, "embedding_size", 128) : hidden,
        family);
  }

  /** Fallbacks are those of Hugging Face's DistilBertConfig. */
  private static BertConfig distilBert(JsonNode json) {
    int hidden = integer(json, "dim", 768);
    return new BertConfig(
        integer(json, "vocab_size", -1),
        hidden,
        integer(json, "n_layers", 6),
        integer(json, "n_heads", 12),
        integer(json, "hidden_dim", 3072),
        integer(json, "max_position_embeddings", 512),
        1,
        1e-12f,
        number(json, "dropout", 0.1f),
        number(json, "attention_dropout", 0.1f),
        hidden,
        ModelFamily.DISTILBERT);
  }

  /** The row of the stored position table that is position 0: {@code pad_token_id + 1} or 0. */
  static int positionOffset(JsonNode json, ModelFamily family) {
    if (!family.offsetsPositions()) {
      return 0;
    }
    int padding = integer(json, "pad_token_id", 1);
    if (padding < 0 || padding > 1 << 16) {
      throw new HalveException("pad_token_id must be a token's id, found " + padding);
    }
    return padding + 1;
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
    ModelFamily family = config.family();
    ObjectNode json = base.deepCopy();
    json.putArray("architectures").add(family.className() + "ForQuestionAnswering");
    writeShape(config, json);
    putType(json, DType.F32);
    json.remove("quantization_config");
    json.remove("compression_config");
    json.remove("halve");
    if (!compressed.isEmpty()) {
      putCompressed(json, compressed);
    }
    return json;
  }

  /**
   * Names the type of the stored weights, in which transformers then loads them.
   *
   * @throws HalveException for a type that is no model's
   */
  static void putType(ObjectNode json, DType dtype) {
    String name =
        switch (dtype) {
          case F32 -> "float32";
          case F16 -> "float16";
          case BF16 -> "bfloat16";
          default ->
              throw new HalveException(
                  "a model cannot be " + dtype + "; expected F32, F16 or BF16");
        };
    // transformers 5 calls the field dtype, and reads either.
    json.put(json.has("dtype") ? "dtype" : "torch_dtype", name);
  }

  /** Says which weights are stored as values and metadata. */
  static void putCompressed(ObjectNode json, List<String> compressed) {
    ObjectNode halve = json.putObject("halve");
    halve.put("sparsity", "2:4");
    halve.put("layout", "NAME.values and NAME.metadata (two 2-bit positions for each group of 4)");
    compressed.forEach(halve.putArray("compressed")::add);
  }

  /** Writes the shape under the family's own field names. */
  static void writeShape(BertConfig config, ObjectNode json) {
    ModelFamily family = config.family();
    boolean distilBert = family == ModelFamily.DISTILBERT;
    int offset = positionOffset(json, family);
    json.put("model_type", family.modelType());
    json.put("vocab_size", config.vocabSize());
    json.put(distilBert ? "dim" : "hidden_size", config.hiddenSize());
    json.put(distilBert ? "n_layers" : "num_hidden_layers", config.numHiddenLayers());
    json.put(distilBert ? "n_heads" : "num_attention_heads", config.numAttentionHeads());
    json.put(distilBert ? "hidden_dim" : "intermediate_size", config.intermediateSize());
    json.put("max_position_embeddings", config.maxPositionEmbeddings() + offset);
    json.put(distilBert ? "dropout" : "hidden_dropout_prob", decimal(config.hiddenDropoutProb()));
    json.put(
        distilBert ? "attention_dropout" : "attention_probs_dropout_prob",
        decimal(config.attentionProbsDropoutProb()));
    json.put(distilBert ? "activation" : "hidden_act", "gelu");
    if (!distilBert) {
      json.put("type_vocab_size", config.typeVocabSize());
      json.put("layer_norm_eps", decimal(config.layerNormEps()));
    }
    if (offset > 0) {
      json.put("pad_token_id", offset - 1);
    }
    if (family == ModelFamily.ELECTRA) {
      json.put("embedding_size", config.embeddingSize());
    }
  }

  /** As the float reads, not with the digits that a double adds. */
  private static double decimal(float value) {
    return Double.parseDouble(Float.toString(value));
  }
}
