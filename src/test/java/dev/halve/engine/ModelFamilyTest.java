package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.io.Json;
import dev.halve.core.io.Safetensors;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Every family and head against the formulas in double precision, and its files in and out. */
class ModelFamilyTest {
  private static final int[][] IDS = new int[3][];
  private static final int[][] TYPES = new int[3][];

  static {
    Random random = new Random(3);
    int[] lengths = {FamilyReference.POSITIONS, 1, 17};
    for (int row = 0; row < lengths.length; row++) {
      IDS[row] = random.ints(lengths[row], 0, FamilyReference.VOCABULARY).toArray();
      TYPES[row] = random.ints(lengths[row], 0, 2).toArray();
    }
  }

  @TempDir Path folder;

  private static int[][] types(String type) {
    return type.equals("bert") || type.equals("electra")
        ? TYPES
        : new int[][] {new int[IDS[0].length], new int[1], new int[IDS[2].length]};
  }

  private static void assertClose(float[] found, int at, double[] expected) {
    for (int i = 0; i < expected.length; i++) {
      assertThat((double) found[at + i]).isCloseTo(expected[i], offset(2e-5));
    }
  }

  private static org.assertj.core.data.Offset<Double> offset(double value) {
    return org.assertj.core.data.Offset.offset(value);
  }

  @ParameterizedTest
  @ValueSource(strings = {"bert", "roberta", "xlm-roberta", "distilbert", "electra"})
  void questionAnsweringEagerAndCompiledDenseAndCompressed(String type) {
    FamilyReference reference =
        new FamilyReference(type, "question-answering", 1).pruned().write(folder);
    PackedBatch batch = PackedBatch.of(IDS, types(type));
    try (Device device = Devices.open("cpu");
        PretrainedModel pretrained = PretrainedModel.open(folder.toString());
        BertForQuestionAnswering model = pretrained.questionAnswering(device, 0, _ -> {});
        Workspace workspace = new Workspace(device)) {
      assertThat(pretrained.hasQuestionAnsweringHead()).isTrue();
      for (int round = 0; round < 2; round++) {
        float[] eager = model.forward(Pass.inference(workspace, batch)).toFloatArray();
        try (CompiledModel compiled = model.compile(batch.tokens(), batch.rows())) {
          float[] fixed = compiled.run(batch).toFloatArray();
          for (int row = 0; row < IDS.length; row++) {
            double[][] expected = reference.questionAnswering(IDS[row], types(type)[row]);
            for (int t = 0; t < expected.length; t++) {
              assertClose(eager, 2 * (batch.rowOffsets()[row] + t), expected[t]);
              assertClose(fixed, 2 * (batch.rowOffsets()[row] + t), expected[t]);
            }
          }
        }
        assertThat(model.toSparseSemiStructured()).isEmpty();
      }
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"bert", "roberta", "xlm-roberta", "distilbert", "electra"})
  void everyOtherHead(String type) {
    PackedBatch batch = PackedBatch.of(IDS, types(type));
    FamilyReference texts =
        new FamilyReference(type, "text-classification", 2).write(folder.resolve("texts"));
    FamilyReference tokens =
        new FamilyReference(type, "token-classification", 3).write(folder.resolve("tokens"));
    FamilyReference plain = new FamilyReference(type, "none", 4).write(folder.resolve("plain"));
    try (Device device = Devices.open("cpu")) {
      float[][] classes =
          apply(device, "texts", batch, PretrainedModel::sequenceClassificationHead);
      float[][] tags = apply(device, "tokens", batch, PretrainedModel::tokenClassificationHead);
      float[][] mean = apply(device, "plain", batch, PretrainedModel::pooling);
      float[][] first = apply(device, "plain", batch, _ -> new Pooling(Pooling.Mode.CLS, true));
      for (int row = 0; row < IDS.length; row++) {
        int[] ids = IDS[row];
        int[] kinds = types(type)[row];
        assertClose(classes[row], 0, texts.textClassification(ids, kinds));
        double[][] expected = tokens.tokenClassification(ids, kinds);
        for (int t = 0; t < expected.length; t++) {
          assertClose(tags[batch.rowOffsets()[row] + t], 0, expected[t]);
        }
        assertClose(mean[row], 0, plain.embedding(ids, kinds, true, false));
        assertClose(first[row], 0, plain.embedding(ids, kinds, false, true));
      }
    }
  }

  private float[][] apply(
      Device device,
      String name,
      PackedBatch batch,
      java.util.function.Function<PretrainedModel, EncoderHead> head) {
    try (PretrainedModel pretrained = PretrainedModel.open(folder.resolve(name).toString());
        BertModel encoder = pretrained.encoder(device);
        CompiledModel compiled = device.compile(encoder, null, batch.tokens(), batch.rows())) {
      return head.apply(pretrained).apply(compiled.run(batch), batch);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"bert", "roberta", "xlm-roberta", "distilbert", "electra"})
  void whatIsSavedHasTheFamilysNamesAndTheSameBits(String type) {
    FamilyReference reference =
        new FamilyReference(type, "question-answering", 5).pruned().write(folder.resolve("in"));
    Path out = folder.resolve("out");
    Path compressed = folder.resolve("compressed");
    try (Device device = Devices.open("cpu");
        PretrainedModel pretrained = PretrainedModel.open(folder.resolve("in").toString());
        BertForQuestionAnswering model = pretrained.questionAnswering(device, 0, _ -> {})) {
      PretrainedModel.save(model, pretrained, out);
      assertThat(model.toSparseSemiStructured()).isEmpty();
      PretrainedModel.save(model, pretrained, compressed);
    }
    try (Safetensors before = Safetensors.open(folder.resolve("in"));
        Safetensors after = Safetensors.open(out)) {
      assertThat(after.names()).containsExactlyInAnyOrderElementsOf(before.names());
      for (String name : before.names()) {
        assertThat(after.tensor(name).segment().mismatch(before.tensor(name).segment()))
            .as(name)
            .isEqualTo(-1);
      }
    }
    Map<String, Object> config = reference.config();
    var saved = Json.read(out.resolve("config.json"));
    config.forEach((field, value) ->
        assertThat(saved.get(field)).as(field).isEqualTo(Json.MAPPER.valueToTree(value)));
    assertThat(saved.get("architectures").get(0).asString()).endsWith("ForQuestionAnswering");
    try (Safetensors files = Safetensors.open(compressed)) {
      for (String name : reference.linearWeights()) {
        assertThat(files.names()).contains(name + ".values", name + ".metadata");
        assertThat(files.names()).doesNotContain(name);
      }
    }
    try (Device device = Devices.open("cpu");
        PretrainedModel again = PretrainedModel.open(compressed.toString());
        BertForQuestionAnswering model = again.questionAnswering(device, 0, _ -> {});
        Workspace workspace = new Workspace(device)) {
      PackedBatch batch = PackedBatch.of(IDS, types(type));
      float[] logits = model.forward(Pass.inference(workspace, batch)).toFloatArray();
      assertClose(logits, 0, reference.questionAnswering(IDS[0], types(type)[0])[0]);
    }
  }

  @Test
  void rowsThatNoPositionHasAreKeptFromHalfPrecisionToo() {
    new FamilyReference("roberta", "question-answering", 7).write(folder.resolve("in"));
    String table = "roberta.embeddings.position_embeddings.weight";
    try (Device device = Devices.open("cpu");
        PretrainedModel whole = PretrainedModel.open(folder.resolve("in").toString())) {
      whole.convert(folder.resolve("half"), null, DType.F16, done -> {});
      try (PretrainedModel half = PretrainedModel.open(folder.resolve("half").toString());
          BertForQuestionAnswering model = half.questionAnswering(device, 0, _ -> {})) {
        PretrainedModel.save(model, half, folder.resolve("out"));
        try (Safetensors saved = Safetensors.open(folder.resolve("out"))) {
          assertThat(saved.tensor(table).toFloatArray())
              .isEqualTo(half.weights().tensor(table).toFloatArray());
        }
      }
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"distilbert", "electra", "roberta"})
  void trainingMovesWhatTheFamilyHas(String type) {
    new FamilyReference(type, "question-answering", 6).write(folder.resolve("in"));
    Path out = folder.resolve("out");
    PackedBatch batch = PackedBatch.of(IDS, types(type));
    float[] trained;
    try (Device device = Devices.open("cpu");
        PretrainedModel pretrained = PretrainedModel.open(folder.resolve("in").toString());
        BertForQuestionAnswering model = pretrained.questionAnswering(device, 0, _ -> {});
        Workspace workspace = new Workspace(device);
        Pool pool = device.openPool()) {
      model.prepareTraining();
      int[] starts = {3, 0, 4};
      int[] ends = {5, 0, 4};
      DeviceBatch onDevice = DeviceBatch.upload(workspace, batch, starts, ends);
      Tensor loss = pool.allocate(DType.F32, 1);
      model.forwardBackward(Pass.training(workspace, onDevice, 1), null, null, 1, loss);
      Tensor norm = pool.allocate(DType.F32, 1);
      device.adamW(model.parameters(), new AdamW(0.05, 0.9, 0.999, 1e-8, 0, 0), 1, norm);
      workspace.reset();
      trained = model.forward(Pass.inference(workspace, batch)).toFloatArray();
      PretrainedModel.save(model, pretrained, out);
    }
    // What DistilBERT has no place for, a row of token types, is in its positions now.
    try (Device device = Devices.open("cpu");
        PretrainedModel saved = PretrainedModel.open(out.toString());
        BertForQuestionAnswering model = saved.questionAnswering(device, 0, _ -> {});
        Workspace workspace = new Workspace(device)) {
      float[] again = model.forward(Pass.inference(workspace, batch)).toFloatArray();
      for (int i = 0; i < trained.length; i++) {
        assertThat((double) again[i]).isCloseTo(trained[i], offset(1e-5));
      }
    }
  }

  @Test
  void aFamilyThatIsNotSupportedIsNamedWithThoseThatAre() {
    new FamilyReference("bert", "none", 1).write(folder);
    var config = new java.util.LinkedHashMap<>(new FamilyReference("bert", "none", 1).config());
    config.put("model_type", "t5");
    Json.write(folder.resolve("config.json"), config);
    assertThatThrownBy(() -> PretrainedModel.open(folder.toString()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("model_type is \"t5\"")
        .hasMessageContaining("distilbert");
    config.put("model_type", "roberta");
    config.put("pad_token_id", 39);
    Json.write(folder.resolve("config.json"), config);
    assertThatThrownBy(() -> PretrainedModel.open(folder.toString()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("config.json")
        .hasMessageContaining("max_position_embeddings leaves no position");
  }

  @Test
  void headsThatAreNotThereOrDoNotFitAreRefused() {
    new FamilyReference("bert", "none", 1).write(folder);
    try (PretrainedModel model = PretrainedModel.open(folder.toString())) {
      assertThatThrownBy(model::sequenceClassificationHead)
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("there is no head for text classification");
      assertThatThrownBy(model::tokenClassificationHead)
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("classifier.weight is missing");
    }
    var named = new java.util.LinkedHashMap<>(new FamilyReference("bert", "none", 1).config());
    new FamilyReference("bert", "token-classification", 1).write(folder);
    named.put("id2label", Map.of("0", "one", "1", "two"));
    Json.write(folder.resolve("config.json"), named);
    try (PretrainedModel model = PretrainedModel.open(folder.toString())) {
      assertThatThrownBy(model::tokenClassificationHead)
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("3 classes")
          .hasMessageContaining("class 2");
    }
  }

  @Test
  void poolingIsReadFromSentenceTransformersFiles() {
    new FamilyReference("bert", "none", 1).write(folder);
    assertThat(pooling()).isEqualTo(new Pooling(Pooling.Mode.MEAN, false));
    Json.write(
        folder.resolve("1_Pooling/config.json"),
        Map.of(
            "word_embedding_dimension",
            24,
            "pooling_mode_cls_token",
            true,
            "pooling_mode_mean_tokens",
            false));
    assertThat(pooling()).isEqualTo(new Pooling(Pooling.Mode.CLS, false));
    Json.write(
        folder.resolve("modules.json"),
        List.of(
            Map.of("type", "sentence_transformers.models.Transformer"),
            Map.of("type", "sentence_transformers.models.Pooling"),
            Map.of("type", "sentence_transformers.models.Normalize")));
    assertThat(pooling()).isEqualTo(new Pooling(Pooling.Mode.CLS, true));
    Json.write(
        folder.resolve("modules.json"),
        List.of(Map.of("type", "sentence_transformers.models.Dense")));
    assertThatThrownBy(this::pooling)
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("modules.json")
        .hasMessageContaining("Dense");
    Json.write(folder.resolve("1_Pooling/config.json"), Map.of("pooling_mode_max_tokens", true));
    assertThatThrownBy(this::pooling)
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("pooling_mode_max_tokens");
  }

  private Pooling pooling() {
    try (PretrainedModel model = PretrainedModel.open(folder.toString())) {
      return model.pooling();
    }
  }

  @Test
  void theErrorFunctionIsTheReferences() {
    for (double x = -7; x < 7; x += 0.01) {
      assertThat(ErrorFunction.erf(x)).isCloseTo(ReferenceBert.erf(x), offset(1e-13));
    }
  }
}
