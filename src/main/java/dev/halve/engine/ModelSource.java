package dev.halve.engine;

import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.download.Download;
import dev.halve.core.download.HuggingFaceHub;
import dev.halve.core.io.Json;
import dev.halve.core.io.OnnxWeights;
import dev.halve.core.io.Safetensors;
import dev.halve.core.io.Weights;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import java.util.TreeSet;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.node.ObjectNode;

/**
 * The files of a stored model, wherever they are: a folder in Hugging Face's layout, a name on its
 * hub, an ONNX file with such a folder's other files beside or above it, the classpath.
 *
 * @param folder that has {@code config.json}; null for a model of the classpath
 * @param configJson {@code config.json}; empty for a model of the classpath
 * @param files the tokenizer's and sentence-transformers' files by their path in the folder
 */
record ModelSource(
    String name,
    Path folder,
    BertConfig config,
    ObjectNode configJson,
    SequencedMap<String, byte[]> files,
    Weights weights) {
  /** The models that artifacts on the classpath may hold: all have 12 heads. */
  private static final Map<String, String> EMBEDDED =
      Map.of(
          "all-MiniLM-L6-v2", "all-minilm-l6-v2",
          "bge-small-en-v1.5", "bge-small-en-v1.5");

  /** Which of a sentence embedding's poolings those models were trained with. */
  private static final Map<String, String> EMBEDDED_POOLING =
      Map.of(
          "all-MiniLM-L6-v2", "pooling_mode_mean_tokens",
          "bge-small-en-v1.5", "pooling_mode_cls_token");

  static final List<String> TOKENIZER_FILES =
      List.of(
          "tokenizer.json",
          "vocab.txt",
          "vocab.json",
          "merges.txt",
          "sentencepiece.bpe.model",
          "added_tokens.json",
          "tokenizer_config.json",
          "special_tokens_map.json");

  static final String POOLING = "1_Pooling/config.json";
  static final String MODULES = "modules.json";
  static final String SENTENCE_LENGTH = "sentence_bert_config.json";

  private static final List<String> SENTENCE_FILES =
      List.of(POOLING, MODULES, SENTENCE_LENGTH, "config_sentence_transformers.json");

  /** The largest tokenizers, of a quarter of a million tokens, have a fifth of this. */
  private static final long MAX_FILE_BYTES = 100L << 20;

  /**
   * @throws HalveException if there is none, or its files are damaged or do not fit each other
   */
  static ModelSource open(String model, Download.Listener listener) {
    if (model.startsWith(HuggingFaceHub.SCHEME)) {
      List<String> files = new ArrayList<>(TOKENIZER_FILES);
      files.addAll(SENTENCE_FILES);
      return folder(HuggingFaceHub.fetch(model, files, listener), model);
    }
    if (EMBEDDED.containsKey(model)) {
      return embedded(model);
    }
    Path path = Path.of(model);
    if (Files.isDirectory(path)) {
      return folder(path, model);
    }
    if (Files.isRegularFile(path) && model.endsWith(".onnx")) {
      return onnx(path);
    }
    throw new HalveException(
        "no model '%s': it is neither a folder, nor an ONNX file, nor one of %s; hf:NAME names one of the Hugging Face hub"
            .formatted(model, String.join(", ", new TreeSet<>(EMBEDDED.keySet()))));
  }

  private static ModelSource folder(Path folder, String name) {
    if (!Files.exists(folder.resolve("config.json"))) {
      throw new HalveException(
          folder
              + ": no config.json; a model folder holds config.json, a tokenizer and"
              + " model.safetensors");
    }
    for (String file : List.of("model.safetensors", "model.safetensors.index.json")) {
      if (Files.exists(folder.resolve(file))) {
        return of(folder, name, () -> Safetensors.open(folder.resolve(file)));
      }
    }
    for (String file : List.of("model.onnx", "onnx/model.onnx")) {
      if (Files.exists(folder.resolve(file))) {
        return of(folder, name, () -> OnnxWeights.open(folder.resolve(file)));
      }
    }
    throw new HalveException(
        folder
            + ": no model.safetensors, model.safetensors.index.json or model.onnx"
            + (Files.exists(folder.resolve("pytorch_model.bin"))
                ? "; pytorch_model.bin is a program of Python's, which is not run here: save the"
                    + " model anew with safe_serialization=True"
                : ""));
  }

  /** An ONNX file by itself; the configuration lies beside it or, as on the hub, one folder up. */
  private static ModelSource onnx(Path file) {
    Path beside = file.toAbsolutePath().getParent();
    for (Path folder : new Path[] {beside, beside.getParent()}) {
      if (folder != null && Files.exists(folder.resolve("config.json"))) {
        return of(folder, file.toString(), () -> OnnxWeights.open(file));
      }
    }
    throw new HalveException(
        file + ": no config.json beside it or one folder up, which says how many heads it has");
  }

  private interface Opening {
    Weights open();
  }

  private static ModelSource of(Path folder, String name, Opening opening) {
    Path configFile = folder.resolve("config.json");
    JsonNode json = Json.read(configFile);
    BertConfig config = ConfigFile.read(json, configFile.toString());
    SequencedMap<String, byte[]> files = new LinkedHashMap<>();
    for (List<String> names : List.of(TOKENIZER_FILES, SENTENCE_FILES)) {
      for (String file : names) {
        if (Files.exists(folder.resolve(file))) {
          files.put(file, read(folder.resolve(file)));
        }
      }
    }
    return new ModelSource(name, folder, config, (ObjectNode) json, files, opening.open());
  }

  private static byte[] read(Path file) {
    try {
      if (Files.size(file) > MAX_FILE_BYTES) {
        throw new HalveException(
            "%s: %,d bytes; at most %,d are read"
                .formatted(file, Files.size(file), MAX_FILE_BYTES));
      }
      return Files.readAllBytes(file);
    } catch (IOException failure) {
      throw HalveException.of("read", file, failure);
    }
  }

  private static ModelSource embedded(String name) {
    String resource = EMBEDDED.get(name);
    ClassLoader loader = ModelSource.class.getClassLoader();
    try (InputStream onnx = loader.getResourceAsStream(resource + ".onnx");
        InputStream tokenizer = loader.getResourceAsStream(resource + "-tokenizer.json")) {
      if (onnx == null || tokenizer == null) {
        throw new HalveException(
            "model '"
                + name
                + "' is not in this build; build with mvn -Pbge package, or name another model");
      }
      SequencedMap<String, byte[]> files = new LinkedHashMap<>();
      files.put("tokenizer.json", tokenizer.readAllBytes());
      files.put(POOLING, json(Map.of(EMBEDDED_POOLING.get(name), true)));
      files.put(MODULES, json(List.of(Map.of("type", "sentence_transformers.models.Normalize"))));
      OnnxWeights weights = OnnxWeights.read(onnx, name);
      try {
        BertConfig config = embeddedConfig(weights);
        return new ModelSource(name, null, config, Json.MAPPER.createObjectNode(), files, weights);
      } catch (HalveException damaged) {
        weights.close();
        throw damaged;
      }
    } catch (IOException failure) {
      throw new HalveException("cannot read the embedded model '" + name + "'", failure);
    }
  }

  /** Whether the weights are an ONNX graph's, among constants that mean nothing elsewhere. */
  boolean isOnnx() {
    return weights instanceof OnnxWeights;
  }

  private static byte[] json(Object value) {
    return Json.MAPPER.writeValueAsBytes(value);
  }

  /**
   * An ONNX file holds no configuration; the shapes tell all but the heads and the norms' epsilon.
   */
  private static BertConfig embeddedConfig(Weights weights) {
    Shape words = weights.tensor("embeddings.word_embeddings.weight").shape();
    int layers = 0;
    while (weights.names().contains("encoder.layer." + layers + ".output.dense.bias")) {
      layers++;
    }
    return new BertConfig(
        (int) words.extent(0),
        (int) words.extent(1),
        layers,
        12,
        (int) weights.tensor("encoder.layer.0.intermediate.dense.bias").extent(0),
        (int) weights.tensor("embeddings.position_embeddings.weight").extent(0),
        (int) weights.tensor("embeddings.token_type_embeddings.weight").extent(0),
        1e-12f,
        0.1f,
        0.1f);
  }
}
