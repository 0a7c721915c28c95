package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.offset;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.io.SparseLayout;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

/** ONNX files that Halve writes, run by ONNX Runtime, against the formulas; and read again. */
class OnnxExportTest {
  @TempDir Path folder;

  private final int[][] ids = new int[3][];
  private final int[][] types = new int[3][];

  OnnxExportTest() {
    Random random = new Random(9);
    int[] lengths = {17, 1, 9};
    for (int row = 0; row < lengths.length; row++) {
      ids[row] = random.ints(lengths[row], 2, FamilyReference.VOCABULARY).toArray();
      types[row] = random.ints(lengths[row], 0, 2).toArray();
    }
  }

  private static boolean typed(String type) {
    return type.equals("bert") || type.equals("electra");
  }

  private Path export(String type, String head, FamilyReference[] reference) {
    reference[0] = new FamilyReference(type, head, 10).pruned().write(folder.resolve("in"));
    Path out = folder.resolve("out");
    try (PretrainedModel model = PretrainedModel.open(folder.resolve("in").toString())) {
      model.exportOnnx(out, _ -> {});
    }
    return out;
  }

  /** Outputs by name, of rows padded to the longest. */
  private Map<String, Object> run(Path model, boolean typed) throws OrtException {
    int longest = 17;
    long[][] tokens = new long[ids.length][longest];
    long[][] mask = new long[ids.length][longest];
    long[][] kinds = new long[ids.length][longest];
    for (int row = 0; row < ids.length; row++) {
      for (int t = 0; t < ids[row].length; t++) {
        tokens[row][t] = ids[row][t];
        mask[row][t] = 1;
        kinds[row][t] = types[row][t];
      }
    }
    OrtEnvironment environment = OrtEnvironment.getEnvironment();
    Map<String, OnnxTensor> inputs = new HashMap<>();
    Map<String, Object> outputs = new HashMap<>();
    try (OrtSession session =
        environment.createSession(
            model.resolve("model.onnx").toString(), new OrtSession.SessionOptions())) {
      inputs.put("input_ids", OnnxTensor.createTensor(environment, tokens));
      inputs.put("attention_mask", OnnxTensor.createTensor(environment, mask));
      if (typed) {
        inputs.put("token_type_ids", OnnxTensor.createTensor(environment, kinds));
      }
      assertThat(session.getInputNames()).isEqualTo(inputs.keySet());
      try (OrtSession.Result result = session.run(inputs)) {
        for (var output : result) {
          outputs.put(output.getKey(), output.getValue().getValue());
        }
      }
    } finally {
      inputs.values().forEach(OnnxTensor::close);
    }
    return outputs;
  }

  private int[] kinds(String type, int row) {
    return typed(type) ? types[row] : new int[ids[row].length];
  }

  @ParameterizedTest
  @ValueSource(strings = {"bert", "roberta", "xlm-roberta", "distilbert", "electra"})
  void questionAnswering(String type) throws OrtException {
    FamilyReference[] reference = new FamilyReference[1];
    Path out = export(type, "question-answering", reference);
    Map<String, Object> outputs = run(out, typed(type));
    float[][] starts = (float[][]) outputs.get("start_logits");
    float[][] ends = (float[][]) outputs.get("end_logits");
    for (int row = 0; row < ids.length; row++) {
      double[][] expected = reference[0].questionAnswering(ids[row], kinds(type, row));
      for (int t = 0; t < expected.length; t++) {
        assertThat((double) starts[row][t]).isCloseTo(expected[t][0], offset(5e-5));
        assertThat((double) ends[row][t]).isCloseTo(expected[t][1], offset(5e-5));
      }
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"bert", "roberta", "distilbert", "electra"})
  void classifiersAndThePlainEncoder(String type) throws OrtException {
    FamilyReference[] reference = new FamilyReference[1];
    float[][] classes =
        (float[][]) run(export(type, "text-classification", reference), typed(type)).get("logits");
    for (int row = 0; row < ids.length; row++) {
      assertRow(classes[row], reference[0].textClassification(ids[row], kinds(type, row)));
    }
    float[][][] tags =
        (float[][][])
            run(export(type, "token-classification", reference), typed(type)).get("logits");
    for (int row = 0; row < ids.length; row++) {
      double[][] expected = reference[0].tokenClassification(ids[row], kinds(type, row));
      for (int t = 0; t < expected.length; t++) {
        assertRow(tags[row][t], expected[t]);
      }
    }
    float[][][] states =
        (float[][][]) run(export(type, "none", reference), typed(type)).get("last_hidden_state");
    for (int row = 0; row < ids.length; row++) {
      double[][] expected = reference[0].lastHidden(ids[row], kinds(type, row));
      for (int t = 0; t < expected.length; t++) {
        assertRow(states[row][t], expected[t]);
      }
    }
  }

  private static void assertRow(float[] found, double[] expected) {
    assertThat(found).hasSize(expected.length);
    for (int i = 0; i < expected.length; i++) {
      assertThat((double) found[i]).isCloseTo(expected[i], offset(5e-5));
    }
  }

  @ParameterizedTest
  @CsvSource({
    "bert, question-answering",
    "roberta, text-classification",
    "xlm-roberta, token-classification",
    "distilbert, question-answering",
    "electra, none"
  })
  void whatIsWrittenIsReadAgainBitForBit(String type, String head) throws Exception {
    FamilyReference[] reference = new FamilyReference[1];
    Path out = export(type, head, reference);
    Path back = folder.resolve("back");
    Path sparse = folder.resolve("sparse");
    // As a folder, and as a file by itself in a folder below, as models lie on the hub.
    Files.createDirectories(out.resolve("onnx"));
    Files.move(out.resolve("model.onnx"), out.resolve("onnx/model.onnx"));
    try (PretrainedModel onnx = PretrainedModel.open(out.toString())) {
      onnx.convert(back, null, null, _ -> {});
    }
    try (PretrainedModel onnx = PretrainedModel.open(out.resolve("onnx/model.onnx").toString())) {
      assertThat(onnx.convert(sparse, SparseLayout.HALVE, null, _ -> {}).leftDense()).isEmpty();
    }
    try (PretrainedModel before = PretrainedModel.open(folder.resolve("in").toString());
        PretrainedModel after = PretrainedModel.open(back.toString());
        PretrainedModel compressed = PretrainedModel.open(sparse.toString());
        Arena arena = Arena.ofConfined()) {
      assertThat(after.weights().names())
          .containsExactlyInAnyOrderElementsOf(before.weights().names());
      for (String name : before.weights().names()) {
        assertThat(
                after
                    .weights()
                    .tensor(name)
                    .segment()
                    .mismatch(before.weights().tensor(name).segment()))
            .as(name)
            .isEqualTo(-1);
      }
      for (String name : reference[0].linearWeights()) {
        String module = name.replaceFirst("\\.weight$", "");
        Tensor dense =
            SparseLayout.HALVE.read(arena, compressed.weights(), module).decompress(arena);
        assertThat(dense.segment().mismatch(before.weights().tensor(name).segment())).isEqualTo(-1);
      }
    }
  }

  @Test
  void aFolderThatWouldStillOpenAsItWasIsRefused() {
    new FamilyReference("bert", "none", 1).write(folder);
    try (PretrainedModel model = PretrainedModel.open(folder.toString())) {
      assertThatThrownBy(() -> model.exportOnnx(folder, _ -> {}))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("model.safetensors");
      assertThat(folder.resolve("model.onnx")).doesNotExist();
    }
  }

  @Test
  void aGraphWithoutItsConfigurationIsRefused() throws Exception {
    FamilyReference[] reference = new FamilyReference[1];
    Path out = export("bert", "none", reference);
    Path alone = Files.createDirectories(folder.resolve("a/b/c")).resolve("alone.onnx");
    Files.move(out.resolve("model.onnx"), alone);
    assertThatThrownBy(() -> PretrainedModel.open(alone.toString()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("alone.onnx: no config.json");
  }
}
