package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.download.Download;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.Json;
import dev.halve.core.io.SafetensorsWriter;
import dev.halve.core.io.SparseLayout;
import dev.halve.core.io.Weights;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.SequencedMap;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.function.Consumer;
import java.util.function.Function;
import java.util.function.IntConsumer;
import tools.jackson.core.JacksonException;
import tools.jackson.databind.node.ObjectNode;

/**
 * An encoder as it is stored: configuration, weights, tokenizer files, heads. Comes from a Hugging
 * Face folder ({@code config.json}, {@code tokenizer.json} or {@code vocab.txt}, {@code
 * model.safetensors}, sharded or not, or {@code model.onnx}) or from the classpath (the models
 * whose artifacts are on Maven Central), and fills models on a device. Owns the mapped weights.
 */
public final class PretrainedModel implements AutoCloseable {
  private final ModelSource source;
  private final StoredTensors tensors;

  private PretrainedModel(ModelSource source) {
    this.source = source;
    int offset = ConfigFile.positionOffset(source.configJson(), source.config().family());
    this.tensors = new StoredTensors(source.weights(), source.config(), offset);
  }

  /**
   * Opens a model.
   *
   * @param model {@code all-MiniLM-L6-v2}, {@code bge-small-en-v1.5}, a folder, an ONNX file with
   *     {@code config.json} and the tokenizer beside it or one folder up, or {@code hf:NAME} for
   *     one of the Hugging Face hub, {@code hf:ORGANISATION/NAME@REVISION} in full
   * @throws HalveException if there is none, or its files are damaged or do not fit each other
   */
  public static PretrainedModel open(String model) {
    return open(model, (bytes, total) -> {});
  }

  /**
   * The same.
   *
   * @param listener hears how much of a model has come that is fetched from the hub
   */
  public static PretrainedModel open(String model, Download.Listener listener) {
    ModelSource source = ModelSource.open(model, listener);
    try {
      return new PretrainedModel(source);
    } catch (HalveException wrong) {
      source.weights().close();
      throw wrong;
    }
  }

  /** The embedded model's name, or the folder. */
  public String name() {
    return source.name();
  }

  /** Where the configuration and the tokenizer are; empty for a model of the classpath. */
  public Optional<Path> folder() {
    return Optional.ofNullable(source.folder());
  }

  public BertConfig config() {
    return source.config();
  }

  /** {@code tokenizer.json}, {@code vocab.txt} and the like, by file name, as many as there are. */
  public SequencedMap<String, byte[]> tokenizerFiles() {
    SequencedMap<String, byte[]> files = new LinkedHashMap<>(source.files());
    files.keySet().retainAll(ModelSource.TOKENIZER_FILES);
    return files;
  }

  /** Whether a trained question-answering head is stored. */
  public boolean hasQuestionAnsweringHead() {
    return tensors.has("qa_outputs.weight");
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
    BertForQuestionAnswering model = new BertForQuestionAnswering(device, config());
    try {
      tensors.fill(model.bert());
      if (hasQuestionAnsweringHead()) {
        tensors.fill(model.qaOutputs(), "qa_outputs");
      } else {
        initialise(model.qaOutputs(), seed);
        notes.accept(
            "%s has no question-answering head: qa_outputs is initialised at random (normal, 0.02)"
                .formatted(name()));
      }
      return model;
    } catch (RuntimeException failure) {
      model.close();
      throw failure;
    }
  }

  /** Fills a plain encoder on a device; its parameters' names have no prefix. */
  public BertModel encoder(Device device) {
    BertModel model = new BertModel(device, config(), "");
    try {
      tensors.fill(model);
      return model;
    } catch (RuntimeException failure) {
      model.close();
      throw failure;
    }
  }

  /**
   * The head that classifies texts.
   *
   * @throws HalveException if the model has none
   */
  public SequenceClassificationHead sequenceClassificationHead() {
    String problem = source.configJson().path("problem_type").asString("");
    return SequenceClassificationHead.of(
        tensors,
        config(),
        new Labels(source.configJson()),
        problem.equals("multi_label_classification"));
  }

  /**
   * The head that classifies tokens.
   *
   * @throws HalveException if the model has none
   */
  public TokenClassificationHead tokenClassificationHead() {
    return TokenClassificationHead.of(tensors, config(), new Labels(source.configJson()));
  }

  /**
   * How the model makes one embedding of a text: what sentence-transformers' files in the folder
   * say, else the mean.
   */
  public Pooling pooling() {
    return Pooling.of(source.files(), name());
  }

  /**
   * Tokens a text may have when it is embedded: {@code max_seq_length} of sentence-transformers'
   * files, else as many as the model has positions.
   */
  public int embeddingLength() {
    byte[] json = source.files().get(ModelSource.SENTENCE_LENGTH);
    int most = config().maxPositionEmbeddings();
    if (json == null) {
      return most;
    }
    try {
      int length = Json.MAPPER.readTree(json).path("max_seq_length").asInt(most);
      return Math.clamp(length, 1, most);
    } catch (JacksonException invalid) {
      throw new HalveException(
          name() + " " + ModelSource.SENTENCE_LENGTH + ": " + Json.describe(invalid), invalid);
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
   * What a conversion did.
   *
   * @param fromBytes of the tensors as they were stored
   * @param compressed how many weights the layout has
   * @param leftDense names of the encoder's linear weights that the layout does not have, after a
   *     colon why, where they are 2:4
   */
  public record Converted(long fromBytes, long toBytes, int compressed, List<String> leftDense) {}

  /**
   * Writes the stored model into a Hugging Face folder, every tensor with its bits, one at a time:
   * heads and whatever else the file has come along.
   *
   * @param layout of the encoder's weights that are 2:4; null for dense weights with zeros
   * @param dtype to round floating tensors to: F32, F16, BF16; null to keep them as they are
   * @param written hears after each tensor how many are written
   * @throws HalveException if a tensor does not fit the configuration, or the folder cannot be
   *     written
   */
  public Converted convert(Path folder, SparseLayout layout, DType dtype, IntConsumer written) {
    ModelConverter converter = new ModelConverter(source, tensors, dtype);
    List<SafetensorsWriter.Entry> entries = converter.entries(layout);
    ModelConverter.write(folder, counted(entries, written));
    writeFiles(folder, converter.config(layout, entries));
    return converted(converter, entries);
  }

  /**
   * Writes the stored model as an ONNX graph of dense F32 weights, {@code model.onnx}, beside its
   * configuration and its tokenizer: the encoder, or the model with the head that it has.
   */
  public Converted exportOnnx(Path folder, IntConsumer written) {
    if (Files.exists(folder.resolve("model.safetensors"))) {
      throw new HalveException(
          folder + " has a model.safetensors, which would come before model.onnx; name another");
    }
    ModelConverter converter = new ModelConverter(source, tensors, DType.F32);
    List<SafetensorsWriter.Entry> entries = converter.entries(null);
    int offset = ConfigFile.positionOffset(source.configJson(), config().family());
    String architecture = source.configJson().path("architectures").path(0).asString("");
    new OnnxExport(config(), tensors.prefix(), offset, counted(entries, written))
        .model(architecture)
        .write(folder.resolve("model.onnx"));
    writeFiles(folder, converter.config(null, entries));
    return converted(converter, entries);
  }

  /**
   * Writes the stored model into a Hugging Face folder with the linear layers of its encoder as
   * they have become, dense and of their stored types; heads and whatever else the file has keep
   * their bits.
   *
   * @param encoder that was filled from here
   */
  public void saveWith(BertModel encoder, Path folder) {
    ModelConverter converter = new ModelConverter(source, tensors, null);
    Map<String, Function<Arena, Tensor>> changed = new HashMap<>();
    for (Linear linear : encoder.linears()) {
      String stored = tensors.storedName(linear.name());
      changed.put(stored + ".weight", linear::weight);
      changed.put(
          stored + ".bias",
          arena -> {
            Tensor bias = Tensor.allocate(arena, DType.F32, linear.out());
            linear.device().download(linear.bias().value(), bias);
            return bias;
          });
    }
    List<SafetensorsWriter.Entry> entries =
        converter.entries(null).stream()
            .map(entry -> changed.containsKey(entry.name()) ? with(entry, changed) : entry)
            .toList();
    ModelConverter.write(folder, entries);
    writeFiles(folder, converter.config(null, entries));
  }

  private static SafetensorsWriter.Entry with(
      SafetensorsWriter.Entry entry, Map<String, Function<Arena, Tensor>> changed) {
    return entry.withLoad(arena -> {
      Tensor tensor = Tensor.allocate(arena, entry.dtype(), entry.shape().extents());
      tensor.copyFrom(changed.get(entry.name()).apply(arena));
      return tensor;
    });
  }

  private static List<SafetensorsWriter.Entry> counted(
      List<SafetensorsWriter.Entry> entries, IntConsumer written) {
    AtomicInteger count = new AtomicInteger();
    return entries.stream()
        .map(entry ->
            entry.withLoad(arena -> {
              written.accept(count.getAndIncrement());
              return entry.load().apply(arena);
            }))
        .toList();
  }

  private void writeFiles(Path folder, ObjectNode config) {
    source.files().forEach((file, bytes) -> AtomicFile.write(folder.resolve(file), bytes));
    Json.write(folder.resolve("config.json"), config);
  }

  private static Converted converted(
      ModelConverter converter, List<SafetensorsWriter.Entry> entries) {
    long bytes = entries.stream().mapToLong(SafetensorsWriter.Entry::bytes).sum();
    return new Converted(
        converter.storedBytes(), bytes, converter.compressed(), List.copyOf(converter.leftDense()));
  }

  /** The stored tensors; they are closed with this. */
  public Weights weights() {
    return source.weights();
  }

  /**
   * Saves a question-answering model as a Hugging Face folder of its family: {@code config.json},
   * the tokenizer's files, {@code model.safetensors} in F32. A compressed weight is stored as
   * {@code NAME.values} and {@code NAME.metadata}. Each file is replaced as a whole, the weights
   * first.
   *
   * @param origin what the model was filled from: its tokenizer and the rest of its configuration
   *     are kept
   * @throws HalveException if the folder cannot be written
   */
  public static void save(BertForQuestionAnswering model, PretrainedModel origin, Path folder) {
    boolean sameFamily = model.config().family() == origin.config().family();
    ObjectNode configJson = origin.source.configJson();
    ModelWriter.write(
        model,
        ConfigFile.positionOffset(configJson, model.config().family()),
        sameFamily ? origin.tensors.unusedPositions() : null,
        folder.resolve("model.safetensors"));
    origin.tokenizerFiles().forEach((file, bytes) -> AtomicFile.write(folder.resolve(file), bytes));
    Json.write(
        folder.resolve("config.json"),
        ConfigFile.write(model.config(), configJson, ModelWriter.compressed(model)));
  }

  @Override
  public void close() {
    source.weights().close();
  }
}
