package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.io.Json;
import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class PretrainedModelTest {
  @TempDir Path folder;

  @ParameterizedTest
  @CsvSource({
    "all-MiniLM-L6-v2, all-minilm-l6-v2.onnx",
    "bge-small-en-v1.5, bge-small-en-v1.5.onnx"
  })
  void theEncodersOutputsAreThoseOfOnnxRuntimeOnTheArtifactsOwnGraph(String name, String resource)
      throws Exception {
    Random24 random = new Random24(5);
    try (Device device = Devices.open("cpu");
        PretrainedModel pretrained = PretrainedModel.open(name);
        BertModel model = pretrained.encoder(device);
        Workspace workspace = new Workspace(device);
        Arena arena = Arena.ofConfined()) {
      PackedBatch batch = random.batch(pretrained.config(), 1, 33, 128, 7, 200);
      Tensor hidden = model.forward(Pass.inference(workspace, batch)).lastHidden();
      Tensor host = Tensor.allocate(arena, DType.F32, hidden.shape().extents());
      device.download(hidden, host);
      float[][] expected = onnxRuntime(resource, batch);
      float worst = 0;
      int size = pretrained.config().hiddenSize();
      for (int row = 0; row < batch.rows(); row++) {
        for (int i = 0; i < expected[row].length; i++) {
          float found = host.getFloat((long) batch.rowOffsets()[row] * size + i);
          worst = Math.max(worst, Math.abs(found - expected[row][i]));
        }
      }
      assertThat(worst).isLessThan(1e-4f);
    }
  }

  /** Last hidden states row by row, unpadded: {@code [rows][length * hidden]}. */
  private static float[][] onnxRuntime(String resource, PackedBatch batch)
      throws IOException, OrtException {
    byte[] graph;
    try (InputStream in = PretrainedModel.class.getClassLoader().getResourceAsStream(resource)) {
      graph = in.readAllBytes();
    }
    OrtEnvironment environment = OrtEnvironment.getEnvironment();
    float[][] rows = new float[batch.rows()][];
    try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
      options.setIntraOpNumThreads(2);
      try (OrtSession session = environment.createSession(graph, options)) {
        for (int row = 0; row < batch.rows(); row++) {
          int from = batch.rowOffsets()[row];
          int to = batch.rowOffsets()[row + 1];
          long[] ones = new long[to - from];
          Arrays.fill(ones, 1);
          Map<String, OnnxTensor> inputs = new HashMap<>();
          inputs.put("input_ids", tensor(environment, longs(batch.tokenIds(), from, to)));
          inputs.put("token_type_ids", tensor(environment, longs(batch.typeIds(), from, to)));
          inputs.put("attention_mask", tensor(environment, ones));
          try (OrtSession.Result result = session.run(inputs)) {
            rows[row] = ((OnnxTensor) result.get(0)).getFloatBuffer().array();
          } finally {
            inputs.values().forEach(OnnxTensor::close);
          }
        }
      }
    }
    return rows;
  }

  private static OnnxTensor tensor(OrtEnvironment environment, long[] values) throws OrtException {
    return OnnxTensor.createTensor(environment, new long[][] {values});
  }

  private static long[] longs(int[] values, int from, int to) {
    return Arrays.stream(values, from, to).asLongStream().toArray();
  }

  @Test
  void aSavedModelComesBackBitForBit() {
    BertConfig config = new BertConfig(50, 24, 2, 2, 48, 32, 2, 1e-12f, 0.1f, 0.1f);
    Random24 random = new Random24(11);
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = random.model(device, config);
        PretrainedModel origin = PretrainedModel.open("all-MiniLM-L6-v2")) {
      PretrainedModel.save(model, origin, folder);
      try (PretrainedModel saved = PretrainedModel.open(folder.toString());
          BertForQuestionAnswering again = saved.questionAnswering(device, 0, note -> {})) {
        assertThat(saved.config()).isEqualTo(config);
        assertThat(saved.tokenizerFiles()).containsKey("tokenizer.json");
        for (int i = 0; i < model.parameters().size(); i++) {
          assertThat(again.parameters().get(i).name()).isEqualTo(model.parameters().get(i).name());
          assertThat(again.parameters().get(i).value().toFloatArray())
              .isEqualTo(model.parameters().get(i).value().toFloatArray());
        }
      }
    }
  }

  @Test
  void aCompressedModelComesBackBitForBitAndGivesTheDenseAnswers() {
    BertConfig config = new BertConfig(50, 24, 2, 2, 48, 32, 2, 1e-12f, 0.1f, 0.1f);
    Random24 random = new Random24(12);
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = random.model(device, config);
        Workspace workspace = new Workspace(device);
        PretrainedModel origin = PretrainedModel.open("all-MiniLM-L6-v2");
        Arena arena = Arena.ofConfined()) {
      List<float[]> weights = new ArrayList<>();
      for (Linear linear : model.bert().linears()) {
        Tensor weight = linear.weight(arena);
        for (long i = 0; i < weight.elements(); i++) {
          if (i % 4 == (i / 4) % 2 || i % 4 == 3) {
            weight.setFloat(i, 0);
          }
        }
        linear.setWeight(weight);
        weights.add(weight.toFloatArray());
      }
      PackedBatch batch = random.batch(config, 9, 1, 20);
      float[] dense = model.forward(Pass.inference(workspace, batch)).toFloatArray();
      assertThat(model.toSparseSemiStructured()).isEmpty();
      float[] sparse = model.forward(Pass.inference(workspace, batch)).toFloatArray();
      for (int i = 0; i < dense.length; i++) {
        assertThat(sparse[i]).isCloseTo(dense[i], org.assertj.core.data.Offset.offset(1e-4f));
      }
      PretrainedModel.save(model, origin, folder);
      try (PretrainedModel saved = PretrainedModel.open(folder.toString());
          BertForQuestionAnswering again = saved.questionAnswering(device, 0, note -> {})) {
        assertThat(saved.weights().names())
            .contains("bert.encoder.layer.0.attention.self.query.weight.values")
            .doesNotContain("bert.encoder.layer.0.attention.self.query.weight");
        List<Linear> linears = again.bert().linears();
        for (int i = 0; i < linears.size(); i++) {
          assertThat(linears.get(i).weight()).isInstanceOf(Weight.Compressed.class);
          assertThat(linears.get(i).weight(arena).toFloatArray()).isEqualTo(weights.get(i));
        }
      }
    }
  }

  /** Transformers loads a model in the type that its configuration names. */
  @Test
  void aModelThatIsSavedNamesTheTypeThatItIsSavedIn() {
    BertConfig config = new BertConfig(50, 24, 2, 2, 48, 32, 2, 1e-12f, 0.1f, 0.1f);
    Path half = folder.resolve("half");
    Path saved = folder.resolve("saved");
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = new Random24(12).model(device, config);
        PretrainedModel origin = PretrainedModel.open("all-MiniLM-L6-v2")) {
      PretrainedModel.save(model, origin, folder);
      try (PretrainedModel whole = PretrainedModel.open(folder.toString())) {
        whole.convert(half, null, DType.F16, done -> {});
      }
      try (PretrainedModel halved = PretrainedModel.open(half.toString())) {
        PretrainedModel.save(model, halved, saved);
      }
    }
    assertThat(Json.read(half.resolve("config.json")).get("torch_dtype").asString())
        .isEqualTo("float16");
    assertThat(Json.read(saved.resolve("config.json")).get("torch_dtype").asString())
        .isEqualTo("float32");
  }

  @Test
  void anEncoderWithoutHeadSaysThatTheHeadIsRandom() {
    List<String> notes = new ArrayList<>();
    try (Device device = Devices.open("cpu");
        PretrainedModel pretrained = PretrainedModel.open("all-MiniLM-L6-v2");
        BertForQuestionAnswering model = pretrained.questionAnswering(device, 1, notes::add);
        BertForQuestionAnswering same = pretrained.questionAnswering(device, 1, note -> {});
        Arena arena = Arena.ofConfined()) {
      assertThat(notes).singleElement().asString().contains("qa_outputs", "random");
      float[] head = model.qaOutputs().weight(arena).toFloatArray();
      double squares = 0;
      for (float each : head) {
        squares += each * each;
      }
      assertThat(Math.sqrt(squares / head.length)).isBetween(0.018, 0.022);
      assertThat(same.qaOutputs().weight(arena).toFloatArray()).isEqualTo(head);
    }
  }

  @Test
  void whatDoesNotFitIsNamed() throws IOException {
    assertThatThrownBy(() -> PretrainedModel.open("no-such-model"))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("no-such-model")
        .hasMessageContaining("all-MiniLM-L6-v2");
    assertThatThrownBy(() -> PretrainedModel.open(folder.toString()))
        .hasMessageContaining("config.json");
    BertConfig config = new BertConfig(50, 24, 2, 2, 48, 32, 2, 1e-12f, 0.1f, 0.1f);
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = new Random24(13).model(device, config);
        PretrainedModel origin = PretrainedModel.open("all-MiniLM-L6-v2")) {
      PretrainedModel.save(model, origin, folder);
      Path file = folder.resolve("config.json");
      String json = Files.readString(file);
      Files.writeString(
          file, json.replace("\"intermediate_size\" : 48", "\"intermediate_size\" : 96"));
      try (PretrainedModel other = PretrainedModel.open(folder.toString())) {
        assertThatThrownBy(() -> other.questionAnswering(device, 0, note -> {}))
            .isInstanceOf(HalveException.class)
            .hasMessageContaining("intermediate.dense.weight")
            .hasMessageContaining("[48, 24]")
            .hasMessageContaining("[96, 24]");
      }
      Files.writeString(file, json.replace("\"gelu\"", "\"relu\""));
      assertThatThrownBy(() -> PretrainedModel.open(folder.toString()))
          .hasMessageContaining("hidden_act")
          .hasMessageContaining("relu");
      Files.writeString(
          file, json.replace("\"num_attention_heads\" : 2", "\"num_attention_heads\" : 5"));
      assertThatThrownBy(() -> PretrainedModel.open(folder.toString()))
          .hasMessageContaining("num_attention_heads");
    }
  }
}
