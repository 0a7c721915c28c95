package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.Json;
import dev.halve.core.io.OnnxWeights;
import dev.halve.core.io.Safetensors;
import dev.halve.core.io.SafetensorsWriter;
import dev.halve.core.io.Weights;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SequencedMap;
import java.util.SequencedSet;
import java.util.function.Consumer;
import tools.jackson.databind.node.ObjectNode;

/**
 * A BERT encoder as it is stored: configuration, weights, tokenizer files. Comes from a Hugging
 * Face folder ({@code config.json}, {@code tokenizer.json} or {@code vocab.txt}, {@code
 * model.safetensors}, sharded or not) or from the classpath (the models whose artifacts are on
 * Maven Central), and fills models on a device. Owns the mapped weights.
 */
public final class PretrainedModel implements AutoCloseable {
  /** The models that artifacts on the classpath may hold: all have 12 heads. */
  private static final Map<String, String> EMBEDDED =
      Map.of(
          "all-MiniLM-L6-v2", "all-minilm-l6-v2",
          "bge-small-en-v1.5", "bge-small-en-v1.5");

  /** The tokenizer's files that are kept with a model, where they exist. */
  private static final List<String> TOKENIZER_FILES =
      List.of("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json");

  private final String name;
  private final BertConfig config;
  private final ObjectNode configJson;
  private final SequencedMap<String, byte[]> tokenizerFiles;
  private final Weights weights;
  private final String prefix;

  private PretrainedModel(
      String name,
      BertConfig config,
      ObjectNode configJson,
      SequencedMap<String, byte[]> tokenizerFiles,
      Weights weights) {
    this.name = name;
    this.config = config;
    this.configJson = configJson;
    this.tokenizerFiles = tokenizerFiles;
    this.weights = weights;
    this.prefix = prefix(weights);
  }

  /**
   * Opens a model.
   *
   * @param nameOrFolder {@code all-MiniLM-L6-v2}, {@code bge-small-en-v1.5}, or a folder
   * @throws HalveException if there is none, or its files are damaged or do not fit each other
   */
  public static PretrainedModel open(String nameOrFolder) {
    if (EMBEDDED.containsKey(nameOrFolder)) {
      return embedded(nameOrFolder);
    }
    Path folder = Path.of(nameOrFolder);
    if (!Files.isDirectory(folder)) {
      throw new HalveException(
          "no model '%s': it is neither a folder nor one of %s"
              .formatted(
                  nameOrFolder, String.join(", ", new java.util.TreeSet<>(EMBEDDED.keySet()))));
    }
    return folder(folder);
  }

  private static PretrainedModel folder(Path folder) {
    Path configFile = folder.resolve("config.json");
    if (!Files.exists(configFile)) {
      throw new HalveException(
          folder
              + ": no config.json; a model folder holds config.json, a tokenizer and"
              + " model.safetensors");
    }
    var json = Json.read(configFile);
    BertConfig config = ConfigFile.read(json, configFile.toString());
    SequencedMap<String, byte[]> tokenizer = new LinkedHashMap<>();
    for (String file : TOKENIZER_FILES) {
      Path path = folder.resolve(file);
      if (Files.exists(path)) {
        try {
          tokenizer.put(file, Files.readAllBytes(path));
        } catch (IOException failure) {
          throw HalveException.of("read", path, failure);
        }
      }
    }
    Path single = folder.resolve("model.safetensors");
    Path index = folder.resolve("model.safetensors.index.json");
    Path onnx = folder.resolve("model.onnx");
    if (Files.exists(single) || Files.exists(index)) {
      return checked(
          folder.toString(),
          config,
          (ObjectNode) json,
          tokenizer,
          Safetensors.open(Files.exists(single) ? single : index));
    }
    if (Files.exists(onnx)) {
      return checked(
          folder.toString(), config, (ObjectNode) json, tokenizer, OnnxWeights.open(onnx));
    }
    throw new HalveException(
        folder + ": no model.safetensors, model.safetensors.index.json or model.onnx");
  }

  private static PretrainedModel embedded(String name) {
    String resource = EMBEDDED.get(name);
    ClassLoader loader = PretrainedModel.class.getClassLoader();
    try (InputStream onnx = loader.getResourceAsStream(resource + ".onnx");
        InputStream tokenizer = loader.getResourceAsStream(resource + "-tokenizer.json")) {
      if (onnx == null || tokenizer == null) {
        throw new HalveException(
            "model '"
                + name
                + "' is not in this build; build with mvn -Pbge package, or name another model");
      }
      SequencedMap<String, byte[]> tokenizerFiles = new LinkedHashMap<>();
      tokenizerFiles.put("tokenizer.json", tokenizer.readAllBytes());
      OnnxWeights weights = OnnxWeights.read(onnx, name);
      return checked(
          name, embeddedConfig(weights), Json.MAPPER.createObjectNode(), tokenizerFiles, weights);
    } catch (IOException failure) {
      throw new HalveException("cannot read the embedded model '" + name + "'", failure);
    }
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

  private static PretrainedModel checked(
      String name,
      BertConfig config,
      ObjectNode configJson,
      SequencedMap<String, byte[]> tokenizer,
      Weights weights) {
    try {
      return new PretrainedModel(name, config, configJson, tokenizer, weights);
    } catch (HalveException wrong) {
      weights.close();
      throw wrong;
    }
  }

  private static String prefix(Weights weights) {
    for (String prefix : List.of("bert.", "")) {
      if (weights.names().contains(prefix + "embeddings.word_embeddings.weight")) {
        return prefix;
      }
    }
    throw new HalveException(
        weights.origin()
            + ": no tensor embeddings.word_embeddings.weight, with or without the prefix bert.;"
            + " this is no BERT encoder");
  }

  /** The embedded model's name, or the folder. */
  public String name() {
    return name;
  }

  public BertConfig config() {
    return config;
  }

  /** {@code tokenizer.json}, {@code vocab.txt} and the like, by file name, as many as there are. */
  public SequencedMap<String, byte[]> tokenizerFiles() {
    return tokenizerFiles;
  }

  /** Whether a trained question-answering head is stored. */
  public boolean hasQuestionAnsweringHead() {
    return weights.names().contains("qa_outputs.weight");
  }

  /** The stored tensors' names. */
  public SequencedSet<String> tensorNames() {
    return weights.names();
  }

  /** A stored tensor, on the host, read-only, until this is closed. */
  public Tensor tensor(String tensorName) {
    return weights.tensor(tensorName);
  }

  /**
   * Fills a question-answering model on a device. A head that is not stored is initialised as
   * Hugging Face does: weights normal with deviation 0.02, biases zero.
   *
   * @param seed of the head's initialisation
   * @param notes hears, in a line each, what the user should know
   * @throws HalveException for a tensor that is missing, of another shape than the configuration
   *     says, or NaN
   */
  public BertForQuestionAnswering questionAnswering(
      Device device, long seed, Consumer<String> notes) {
    BertForQuestionAnswering model = new BertForQuestionAnswering(device, config);
    try {
      fill(model.bert());
      if (hasQuestionAnsweringHead()) {
        fill(model.qaOutputs(), "qa_outputs");
      } else {
        initialise(model.qaOutputs(), seed);
        notes.accept(
            "%s has no question-answering head: qa_outputs is initialised at random (normal, 0.02)"
                .formatted(name));
      }
      return model;
    } catch (RuntimeException failure) {
      model.close();
      throw failure;
    }
  }

  /** Fills a plain encoder on a device; its parameters' names have no prefix. */
  public BertModel encoder(Device device) {
    BertModel model = new BertModel(device, config, "");
    try {
      fill(model);
      return model;
    } catch (RuntimeException failure) {
      model.close();
      throw failure;
    }
  }

  /**
   * A model of a shape with random weights, for timing: they do not matter as long as they are not
   * constant.
   */
  public static BertForQuestionAnswering random(Device device, BertConfig config, long seed) {
    BertForQuestionAnswering model = new BertForQuestionAnswering(device, config);
    Random random = new Random(seed);
    for (Parameter parameter : model.parameters()) {
      boolean scale = parameter.name().endsWith("LayerNorm.weight");
      fillNormal(device, parameter, random, scale ? 1 : 0, scale ? 0 : 0.02);
    }
    return model;
  }

  private void fill(BertModel model) {
    List<Linear> linears = model.linears();
    for (Linear linear : linears) {
      fill(linear, storedName(linear.name()));
    }
    Device device = model.device();
    model.eachParameter(parameter -> {
      if (linears.stream().noneMatch(linear -> parameter.name().startsWith(linear.name() + "."))) {
        fill(device, parameter, storedName(parameter.name()));
      }
    });
  }

  /** The name in the file of what the model calls {@code bert.x} or, without a head, {@code x}. */
  private String storedName(String modelName) {
    return prefix + (modelName.startsWith("bert.") ? modelName.substring(5) : modelName);
  }

  private void fill(Linear linear, String stored) {
    String values = stored + ".weight.values";
    String metadata = stored + ".weight.metadata";
    if (weights.names().contains(values)) {
      if (!weights.names().contains(metadata)) {
        throw new HalveException(
            "%s: tensor %s has no %s beside it".formatted(weights.origin(), values, metadata));
      }
      try {
        SparseSemiStructuredTensor tensor =
            new SparseSemiStructuredTensor(
                linear.weight().shape(),
                weights.tensor(values).requireNoNaN(values),
                weights.tensor(metadata));
        tensor.validate();
        linear.setCompressed(tensor);
      } catch (HalveException wrong) {
        throw wrong.in(weights.origin() + ": " + stored + ".weight");
      }
    } else {
      linear.setWeight(stored(stored + ".weight", linear.weight().shape()));
    }
    fill(linear.device(), linear.bias(), stored + ".bias");
  }

  private void fill(Device device, Parameter parameter, String stored) {
    device.upload(stored(stored, parameter.value().shape()), parameter.value());
    device.round(parameter);
  }

  private Tensor stored(String tensorName, Shape expected) {
    // TensorFlow's first checkpoints call a norm's weight gamma and its bias beta.
    String old =
        tensorName
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
    if (!weights.names().contains(tensorName) && !weights.names().contains(old)) {
      throw new HalveException(
          "%s: tensor %s is missing; config.json describes another model"
              .formatted(weights.origin(), tensorName));
    }
    Tensor tensor = weights.tensor(weights.names().contains(tensorName) ? tensorName : old);
    if (!tensor.shape().equals(expected) || !tensor.dtype().isFloating()) {
      throw new HalveException(
          "%s: tensor %s is %s, expected a floating type of shape %s; config.json describes another model"
              .formatted(weights.origin(), tensorName, tensor, expected));
    }
    try {
      return tensor.requireNoNaN(tensorName);
    } catch (HalveException nan) {
      throw nan.in(weights.origin());
    }
  }

  private static void initialise(Linear head, long seed) {
    Random random = new Random(seed);
    head.eachParameter(parameter ->
        fillNormal(head.device(), parameter, random, 0, parameter == head.bias() ? 0 : 0.02));
  }

  private static void fillNormal(
      Device device, Parameter parameter, Random random, double mean, double deviation) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.F32, parameter.value().shape().extents());
      for (long i = 0; i < host.elements(); i++) {
        host.setFloat(i, (float) (mean + deviation * random.nextGaussian()));
      }
      device.upload(host, parameter.value());
      device.round(parameter);
    }
  }

  /**
   * Saves a model as a Hugging Face folder: {@code config.json}, the tokenizer's files, {@code
   * model.safetensors} in F32. A compressed weight is stored as {@code NAME.values} and {@code
   * NAME.metadata}. Each file is replaced as a whole, the weights first.
   *
   * @param origin what the model was filled from: its tokenizer and the rest of its configuration
   *     are kept
   * @throws HalveException if the folder cannot be written
   */
  public static void save(BertForQuestionAnswering model, PretrainedModel origin, Path folder) {
    Device device = model.device();
    List<SafetensorsWriter.Entry> entries = new ArrayList<>();
    List<String> compressed = new ArrayList<>();
    for (Parameter parameter : model.parameters()) {
      entries.add(
          new SafetensorsWriter.Entry(
              parameter.name(),
              DType.F32,
              parameter.value().shape(),
              arena -> {
                Tensor host =
                    Tensor.allocate(arena, DType.F32, parameter.value().shape().extents());
                device.download(parameter.value(), host);
                return host;
              }));
    }
    for (Linear linear : model.bert().linears()) {
      if (linear.weight() instanceof Weight.Compressed weight) {
        compressed.add(weight.name());
        Arena unpacked = Arena.ofAuto();
        SparseSemiStructuredTensor tensor = weight.packed().unpack(unpacked);
        addEntry(entries, weight.name() + ".values", tensor.values());
        addEntry(entries, weight.name() + ".metadata", tensor.metadata());
      }
    }
    SafetensorsWriter.write(folder.resolve("model.safetensors"), entries, Map.of("format", "pt"));
    origin.tokenizerFiles.forEach((file, bytes) -> AtomicFile.write(folder.resolve(file), bytes));
    Json.write(
        folder.resolve("config.json"),
        ConfigFile.write(model.config(), origin.configJson, compressed));
  }

  private static void addEntry(List<SafetensorsWriter.Entry> entries, String name, Tensor tensor) {
    entries.add(new SafetensorsWriter.Entry(name, tensor.dtype(), tensor.shape(), arena -> tensor));
  }

  @Override
  public void close() {
    weights.close();
  }
}
