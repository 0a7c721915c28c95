package dev.halve.engine;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.io.Json;
import java.util.Map;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.JsonNode;

/**
 * A sentence's embedding from its tokens' hidden states (Reimers and Gurevych, 2019), as
 * sentence-transformers stores the choice: {@code 1_Pooling/config.json} and {@code modules.json}.
 *
 * @param normalized whether the embedding is divided by its length
 */
public record Pooling(Mode mode, boolean normalized) implements EncoderHead {
  /** Which tokens count. */
  public enum Mode {
    /** The mean of all tokens of the row, the special ones too. */
    MEAN,
    /** The first token. */
    CLS
  }

  /**
   * The pooling that a folder's files ask for; the mean, as it is, where they do not say.
   *
   * @param files contents by name
   * @throws HalveException for a pooling or a module that this engine does not have
   */
  static Pooling of(Map<String, byte[]> files, String model) {
    return new Pooling(
        mode(json(files, ModelSource.POOLING, model), model),
        normalized(json(files, ModelSource.MODULES, model), model));
  }

  private static JsonNode json(Map<String, byte[]> files, String name, String model) {
    byte[] content = files.get(name);
    if (content == null) {
      return Json.MAPPER.missingNode();
    }
    try {
      return Json.MAPPER.readTree(content);
    } catch (JacksonException invalid) {
      throw new HalveException(model + " " + name + ": " + Json.describe(invalid), invalid);
    }
  }

  private static Mode mode(JsonNode json, String model) {
    Mode found = null;
    for (Map.Entry<String, JsonNode> field : json.properties()) {
      if (field.getKey().startsWith("pooling_mode_") && field.getValue().asBoolean(false)) {
        Mode mode =
            switch (field.getKey()) {
              case "pooling_mode_mean_tokens" -> Mode.MEAN;
              case "pooling_mode_cls_token" -> Mode.CLS;
              default -> null;
            };
        if (mode == null || found != null) {
          throw new HalveException(
              "%s %s: %s is set; supported is one of pooling_mode_mean_tokens and pooling_mode_cls_token"
                  .formatted(model, ModelSource.POOLING, field.getKey()));
        }
        found = mode;
      }
    }
    return found == null ? Mode.MEAN : found;
  }

  private static boolean normalized(JsonNode modules, String model) {
    boolean normalized = false;
    for (JsonNode module : modules) {
      String type = module.path("type").asString("");
      switch (type.substring(type.lastIndexOf('.') + 1)) {
        case "Transformer", "Pooling" -> {}
        case "Normalize" -> normalized = true;
        default ->
            throw new HalveException(
                "%s %s: there is a module %s; supported are Transformer, Pooling and Normalize"
                    .formatted(model, ModelSource.MODULES, type));
      }
    }
    return normalized;
  }

  /** Embeddings, {@code [rows][hidden]}. */
  @Override
  public float[][] apply(Tensor lastHidden, PackedBatch batch) {
    float[][] embeddings = new float[batch.rows()][];
    for (int row = 0; row < batch.rows(); row++) {
      int first = batch.rowOffsets()[row];
      float[] embedding = EncoderHead.token(lastHidden, first);
      if (mode == Mode.MEAN) {
        for (int token = first + 1; token < batch.rowOffsets()[row + 1]; token++) {
          float[] state = EncoderHead.token(lastHidden, token);
          for (int i = 0; i < state.length; i++) {
            embedding[i] += state[i];
          }
        }
        scale(embedding, 1f / batch.rowLength(row));
      }
      if (normalized) {
        double square = 0;
        for (float each : embedding) {
          square += (double) each * each;
        }
        // As PyTorch's normalize has it: an embedding of zeros stays one.
        scale(embedding, (float) (1 / Math.max(Math.sqrt(square), 1e-12)));
      }
      embeddings[row] = embedding;
    }
    return embeddings;
  }

  private static void scale(float[] values, float factor) {
    for (int i = 0; i < values.length; i++) {
      values[i] *= factor;
    }
  }
}
