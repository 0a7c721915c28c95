package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.io.Json;
import dev.halve.core.io.Safetensors;
import dev.halve.core.io.SafetensorsWriter;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.FamilyReference;
import dev.halve.engine.PretrainedModel;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SequencedMap;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import tools.jackson.databind.JsonNode;

/** Models between their forms: from each to each, every bit kept. */
class ConversionTest {
  private static final String OUTPUT = "bert.encoder.layer.1.output.dense";
  private static final String QUERY = "bert.encoder.layer.0.attention.self.query";

  @TempDir static Path shared;
  private static Path pruned;
  private static Path halves;

  @TempDir Path folder;

  @BeforeAll
  static void prune() {
    // 64 wide: all of PyTorch's layout but for the last product of a layer, whose input is 32.
    TinyFolder.write(shared, 64);
    Path asked = shared.resolve("asked");
    try (Device device = Devices.open("cpu");
        PretrainedModel headless = PretrainedModel.open(shared.resolve("model").toString());
        BertForQuestionAnswering model = headless.questionAnswering(device, 0, note -> {})) {
      PretrainedModel.save(model, headless, asked);
    }
    pruned = shared.resolve("pruned");
    Steps.prune(
        asked.toString(),
        PruningPlan.magnitude(PruningSettings.SEMI_STRUCTURED),
        pruned,
        Progress.NONE);
    halves = shared.resolve("halves");
    Steps.convert(pruned.toString(), Steps.Form.DENSE, DType.F16, halves, Progress.NONE);
  }

  private static Steps.Converted convert(Path model, Steps.Form form, Path out) {
    return Steps.convert(model.toString(), form, out, Progress.NONE);
  }

  private static void assertSameWeights(Path one, Path other) throws IOException {
    try (Safetensors expected = Safetensors.open(one);
        Safetensors found = Safetensors.open(other)) {
      assertThat(found.names()).containsExactlyInAnyOrderElementsOf(expected.names());
      for (String name : expected.names()) {
        assertThat(found.tensor(name).dtype()).isEqualTo(expected.tensor(name).dtype());
        assertThat(found.tensor(name).segment().mismatch(expected.tensor(name).segment()))
            .as(name)
            .isEqualTo(-1);
      }
    }
  }

  @Test
  void fromEveryFormToEveryFormAndBack() throws IOException {
    List<Steps.Form> forms =
        List.of(
            Steps.Form.DENSE,
            Steps.Form.SPARSE_SEMI_STRUCTURED,
            Steps.Form.SPARSE_24_BITMASK,
            Steps.Form.CUTLASS);
    for (Path origin : List.of(halves, pruned)) {
      for (Steps.Form from : forms) {
        for (Steps.Form to : forms) {
          Path first = folder.resolve(origin.getFileName() + from.name() + to.name());
          convert(origin, from, first);
          Path second = first.resolveSibling(first.getFileName() + "again");
          convert(first, to, second);
          Path back = first.resolveSibling(first.getFileName() + "back");
          convert(second, Steps.Form.DENSE, back);
          assertSameWeights(origin, back);
          assertThat(Json.read(back.resolve("config.json")).has("halve")).isFalse();
          assertThat(Json.read(back.resolve("config.json")).has("quantization_config")).isFalse();
        }
      }
    }
  }

  @Test
  void aConvertedModelAnswersTheSame() {
    EvaluationSettings settings = EvaluationSettings.DEFAULT;
    FeatureSettings features = new FeatureSettings(24, 0);
    List<Steps.Answer> expected =
        Steps.predict(
            halves.toString(), "cpu", "how many ?", "two gates", features, settings, Progress.NONE);
    for (Steps.Form form : Steps.Form.values()) {
      Path out = folder.resolve(form.name());
      convert(halves, form, out);
      List<Steps.Answer> found =
          Steps.predict(
              out.toString(), "cpu", "how many ?", "two gates", features, settings, Progress.NONE);
      assertThat(found.getFirst().text()).isEqualTo(expected.getFirst().text());
      assertThat(found.getFirst().score())
          .isCloseTo(expected.getFirst().score(), org.assertj.core.api.Assertions.offset(1e-4));
    }
  }

  @Test
  void whatALayoutDoesNotHaveStaysDenseAndIsSaid() throws IOException {
    Path out = folder.resolve("cutlass");
    Steps.Converted converted = convert(halves, Steps.Form.CUTLASS, out);
    assertThat(converted.leftDense())
        .hasSize(2)
        .allMatch(line -> line.contains("output.dense.weight: [64, 32] is not"));
    try (Safetensors file = Safetensors.open(out)) {
      assertThat(file.names()).contains(QUERY + ".weight.packed", QUERY + ".weight.meta");
      assertThat(file.tensor(QUERY + ".weight.meta").dtype()).isEqualTo(DType.I16);
      assertThat(file.names()).contains(OUTPUT + ".weight");
    }
    assertThat(convert(pruned, Steps.Form.CUTLASS, folder.resolve("wide")).leftDense())
        .hasSize(12)
        .allMatch(line -> line.contains("F16 and BF16 alone"));
  }

  @Test
  void theBitmaskFolderIsCompressedTensors() throws IOException {
    Path out = folder.resolve("bitmask");
    convert(pruned, Steps.Form.SPARSE_24_BITMASK, out);
    JsonNode config = Json.read(out.resolve("config.json")).get("quantization_config");
    assertThat(config.get("quant_method").asString()).isEqualTo("compressed-tensors");
    assertThat(config.get("sparsity_config").get("format").asString())
        .isEqualTo("sparse-24-bitmask");
    assertThat(config.get("sparsity_config").get("ignore").get(0).asString())
        .isEqualTo("qa_outputs");
    try (Safetensors file = Safetensors.open(out);
        Safetensors dense = Safetensors.open(pruned)) {
      Tensor bits = file.tensor(QUERY + ".bitmask");
      Tensor values = file.tensor(QUERY + ".compressed");
      assertThat(file.tensor(QUERY + ".shape").segment().toArray(ValueLayout.JAVA_LONG))
          .containsExactly(64, 64);
      Tensor expected = dense.tensor(QUERY + ".weight");
      int next = 0;
      for (int i = 0; i < 64 * 64; i++) {
        boolean kept = (bits.segment().get(ValueLayout.JAVA_BYTE, i / 8) >> (i % 8) & 1) == 1;
        assertThat(expected.getFloat(i)).isEqualTo(kept ? values.getFloat(next++) : 0f);
      }
      assertThat(next).isEqualTo(64 * 32);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"roberta", "xlm-roberta", "distilbert", "electra"})
  void everyFamilyKeepsItsNamesItsHeadAndItsFiles(String type) throws IOException {
    Path in = folder.resolve("in");
    FamilyReference reference =
        new FamilyReference(type, "text-classification", 1).pruned().write(in);
    Files.writeString(in.resolve("tokenizer.json"), "{}");
    Json.write(in.resolve("1_Pooling/config.json"), Map.of("pooling_mode_cls_token", true));
    Path sparse = folder.resolve("sparse");
    assertThat(convert(in, Steps.Form.SPARSE_SEMI_STRUCTURED, sparse).leftDense()).isEmpty();
    try (Safetensors file = Safetensors.open(sparse)) {
      for (String name : reference.linearWeights()) {
        assertThat(file.names()).contains(name + ".values", name + ".metadata");
      }
    }
    assertThat(sparse.resolve("tokenizer.json")).hasContent("{}");
    assertThat(sparse.resolve("1_Pooling/config.json")).exists();
    Path dense = folder.resolve("dense");
    convert(sparse, Steps.Form.DENSE, dense);
    assertSameWeights(in, dense);
    assertThat(Json.read(dense.resolve("config.json")))
        .isEqualTo(Json.read(in.resolve("config.json")));
  }

  @Test
  void aShardedModelIsOneFileAfterwards() throws IOException {
    Path in = Files.createDirectories(folder.resolve("in"));
    Map<String, String> index = new LinkedHashMap<>();
    try (Safetensors whole = Safetensors.open(pruned)) {
      SequencedMap<String, Tensor> first = new LinkedHashMap<>();
      SequencedMap<String, Tensor> second = new LinkedHashMap<>();
      for (String name : whole.names()) {
        boolean odd = index.size() % 2 == 1;
        (odd ? first : second).put(name, whole.tensor(name));
        index.put(name, odd ? "a.safetensors" : "b.safetensors");
      }
      SafetensorsWriter.write(in.resolve("a.safetensors"), first, Map.of());
      SafetensorsWriter.write(in.resolve("b.safetensors"), second, Map.of());
    }
    Json.write(in.resolve("model.safetensors.index.json"), Map.of("weight_map", index));
    for (String file : List.of("config.json", "vocab.txt")) {
      Files.copy(pruned.resolve(file), in.resolve(file), StandardCopyOption.REPLACE_EXISTING);
    }
    convert(in, Steps.Form.DENSE, folder.resolve("out"));
    assertSameWeights(pruned, folder.resolve("out"));
  }

  @Test
  void aTypeThatIsTooNarrowIsRefusedAndNothingIsLeft() throws IOException {
    Path in = folder.resolve("in");
    new FamilyReference("bert", "none", 1).write(in);
    try (Safetensors whole = Safetensors.open(in);
        Arena arena = Arena.ofConfined()) {
      SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
      for (String name : whole.names()) {
        Tensor copy = Tensor.allocate(arena, DType.F32, whole.tensor(name).shape().extents());
        copy.copyFrom(whole.tensor(name));
        tensors.put(name, copy);
      }
      tensors.get("embeddings.LayerNorm.bias").setFloat(3, 1e6f);
      SafetensorsWriter.write(in.resolve("model.safetensors"), tensors, Map.of());
    }
    Path out = folder.resolve("out");
    assertThatThrownBy(
            () -> Steps.convert(in.toString(), Steps.Form.DENSE, DType.F16, out, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("embeddings.LayerNorm.bias")
        .hasMessageContaining("1000000.0")
        .hasMessageContaining("BF16");
    try (var left = Files.list(out)) {
      assertThat(left).isEmpty();
    }
    Steps.convert(in.toString(), Steps.Form.DENSE, DType.BF16, out, Progress.NONE);
    try (Safetensors file = Safetensors.open(out)) {
      assertThat(file.tensor("embeddings.LayerNorm.bias").getFloat(3)).isEqualTo(999_424f);
    }
    assertThat(Json.read(out.resolve("config.json")).get("torch_dtype").asString())
        .isEqualTo("bfloat16");
  }

  @Test
  void inspectRecognisesEveryLayout() {
    for (Steps.Form form : Steps.Form.values()) {
      Path out = folder.resolve(form.name());
      convert(halves, form, out);
      ModelSummary.Summary summary = ModelSummary.of(out.toString(), Progress.NONE);
      List<ModelSummary.Entry> semiStructured =
          summary.tensors().stream().filter(ModelSummary.Entry::semiStructured).toList();
      assertThat(semiStructured).hasSize(12);
      for (ModelSummary.Entry entry : semiStructured) {
        assertThat(entry.pattern()).isEqualTo("2:4");
        boolean narrow = entry.shape().get(1) == 32;
        assertThat(entry.stored())
            .isEqualTo(
                form == Steps.Form.ONNX || form == Steps.Form.CUTLASS && narrow
                    ? "dense"
                    : form.label());
      }
      assertThat(ModelSummary.corner(out.toString(), QUERY, 4).values())
          .isDeepEqualTo(ModelSummary.corner(halves.toString(), QUERY, 4).values());
    }
  }

  /** Written, converted from form to form and read again by a process whose heap it exceeds. */
  @Test
  void aModelLargerThanTheHeapIsConverted() throws Exception {
    Path in = Files.createDirectories(folder.resolve("large"));
    int hidden = 512;
    int inner = 2048;
    int layers = 4;
    int vocabulary = 70_000;
    Map<String, Object> config = new LinkedHashMap<>();
    config.put("model_type", "bert");
    config.put("vocab_size", vocabulary);
    config.put("hidden_size", hidden);
    config.put("num_hidden_layers", layers);
    config.put("num_attention_heads", 8);
    config.put("intermediate_size", inner);
    Json.write(in.resolve("config.json"), config);
    List<SafetensorsWriter.Entry> entries = new ArrayList<>();
    add(entries, "embeddings.word_embeddings.weight", vocabulary, hidden);
    add(entries, "embeddings.position_embeddings.weight", 512, hidden);
    add(entries, "embeddings.token_type_embeddings.weight", 2, hidden);
    addNorm(entries, "embeddings.LayerNorm", hidden);
    for (int layer = 0; layer < layers; layer++) {
      String name = "encoder.layer." + layer;
      for (String square : List.of("self.query", "self.key", "self.value", "output.dense")) {
        addLinear(entries, name + ".attention." + square, hidden, hidden);
      }
      addNorm(entries, name + ".attention.output.LayerNorm", hidden);
      addLinear(entries, name + ".intermediate.dense", inner, hidden);
      addLinear(entries, name + ".output.dense", hidden, inner);
      addNorm(entries, name + ".output.LayerNorm", hidden);
    }
    SafetensorsWriter.write(in.resolve("model.safetensors"), entries, Map.of("format", "pt"));
    assertThat(Files.size(in.resolve("model.safetensors"))).isGreaterThan(3 * (48L << 20));

    Path process = Path.of(System.getProperty("java.home"), "bin", "java");
    Process run =
        new ProcessBuilder(
                process.toString(),
                "-Xmx48m",
                "--add-modules=jdk.incubator.vector",
                "--enable-native-access=ALL-UNNAMED",
                "-cp",
                System.getProperty("java.class.path"),
                ConversionTest.class.getName(),
                folder.toString())
            .redirectErrorStream(true)
            .redirectOutput(folder.resolve("output").toFile())
            .start();
    assertThat(run.waitFor()).as(Files.readString(folder.resolve("output"))).isZero();
    assertThat(
            Files.mismatch(
                in.resolve("model.safetensors"), folder.resolve("dense/model.safetensors")))
        .isEqualTo(-1);
    assertSameWeights(in, folder.resolve("again"));
    assertThat(Files.size(folder.resolve("sparse/model.safetensors")))
        .isLessThan(Files.size(in.resolve("model.safetensors")) - (20L << 20));
  }

  /** The small process: to each form in turn. */
  public static void main(String[] arguments) {
    Path folder = Path.of(arguments[0]);
    convert(folder.resolve("large"), Steps.Form.SPARSE_SEMI_STRUCTURED, folder.resolve("sparse"));
    convert(folder.resolve("sparse"), Steps.Form.SPARSE_24_BITMASK, folder.resolve("bitmask"));
    convert(folder.resolve("bitmask"), Steps.Form.DENSE, folder.resolve("dense"));
    convert(folder.resolve("bitmask"), Steps.Form.ONNX, folder.resolve("onnx"));
    convert(folder.resolve("onnx"), Steps.Form.DENSE, folder.resolve("again"));
  }

  private static void addNorm(List<SafetensorsWriter.Entry> entries, String name, int width) {
    add(entries, name + ".weight", width);
    add(entries, name + ".bias", width);
  }

  private static void addLinear(
      List<SafetensorsWriter.Entry> entries, String name, int out, int in) {
    add(entries, name + ".weight", out, in);
    add(entries, name + ".bias", out);
  }

  /** Random numbers, half of a linear weight's zero. */
  private static void add(List<SafetensorsWriter.Entry> entries, String name, long... extents) {
    boolean linear = name.startsWith("encoder") && extents.length == 2;
    entries.add(
        new SafetensorsWriter.Entry(
            name,
            DType.F32,
            Shape.of(extents),
            arena -> {
              Tensor tensor = Tensor.allocate(arena, DType.F32, extents);
              Random random = new Random(name.hashCode());
              for (long i = 0; i < tensor.elements(); i++) {
                if (!linear || i % 4 == 0 || i % 4 == 3) {
                  tensor.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, random.nextFloat());
                }
              }
              return tensor;
            }));
  }
}
