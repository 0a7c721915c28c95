package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.io.OnnxModel;
import dev.halve.core.io.SafetensorsWriter;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/**
 * A stored encoder, with its head where it has one, as an ONNX graph of dense F32 weights: inputs
 * and outputs are named as Hugging Face's exporter names them, so are the nodes that multiply, by
 * which {@link dev.halve.core.io.OnnxWeights} finds the weights again.
 */
final class OnnxExport {
  /** Added to the scores of padding: less than any score, and no infinity. */
  private static final float MASKED = -Float.MAX_VALUE;

  private final OnnxModel graph = new OnnxModel("main_graph");
  private final BertConfig config;
  private final String prefix;
  private final int positionOffset;
  private final Map<String, SafetensorsWriter.Entry> tensors = new LinkedHashMap<>();

  /**
   * @param entries the model's tensors, dense and F32
   */
  OnnxExport(
      BertConfig config, String prefix, int positionOffset, List<SafetensorsWriter.Entry> entries) {
    this.config = config;
    this.prefix = prefix;
    this.positionOffset = positionOffset;
    entries.forEach(entry -> tensors.put(entry.name(), entry));
  }

  /**
   * @param architecture the class that {@code config.json} names first, which says what a
   *     classifier is for
   */
  OnnxModel model(String architecture) {
    graph.input("input_ids", DType.I64, "batch", "sequence");
    graph.input("attention_mask", DType.I64, "batch", "sequence");
    if (config.typeVocabSize() > 1) {
      graph.input("token_type_ids", DType.I64, "batch", "sequence");
    }
    String x = embeddings();
    String mask = mask();
    for (int layer = 0; layer < config.numHiddenLayers(); layer++) {
      x = layer(prefix + "encoder.layer." + layer, x, mask);
    }
    head(x, architecture);
    return graph;
  }

  private String embeddings() {
    String name = prefix + "embeddings";
    String word = gather(name + ".word_embeddings", "input_ids");
    String shape = graph.node("Shape", "/" + name + "/Shape", Map.of(), "input_ids");
    String one = graph.constant("one", true, 1);
    String length = graph.node("Gather", "/" + name + "/Gather", Map.of("axis", 0), shape, one);
    String first = graph.constant("first_position", true, positionOffset);
    String end = graph.node("Add", "/" + name + "/Add", Map.of(), length, first);
    String positions = graph.node("Range", "/" + name + "/Range", Map.of(), first, end, one);
    String sum =
        graph.node(
            "Add",
            "/" + name + "/Add_1",
            Map.of(),
            word,
            gather(name + ".position_embeddings", positions));
    if (config.family().hasTokenTypes()) {
      String types =
          config.typeVocabSize() > 1 ? "token_type_ids" : graph.constant("first_type", true, 0);
      sum =
          graph.node(
              "Add",
              "/" + name + "/Add_2",
              Map.of(),
              sum,
              gather(name + ".token_type_embeddings", types));
    }
    String normed = norm(name + ".LayerNorm", sum);
    return config.embeddingSize() == config.hiddenSize()
        ? normed
        : linear(name + "_project", normed);
  }

  private String gather(String module, String ids) {
    return graph.node(
        "Gather", "/" + module + "/Gather", Map.of("axis", 0), stored(module + ".weight"), ids);
  }

  /** {@code [batch, 1, 1, sequence]}: 0 for tokens, {@link #MASKED} for padding. */
  private String mask() {
    String mask = graph.node("Cast", "/mask/Cast", Map.of("to", 1), "attention_mask");
    String padding =
        graph.node("Sub", "/mask/Sub", Map.of(), graph.constant("one_float", 1f), mask);
    String scores =
        graph.node("Mul", "/mask/Mul", Map.of(), padding, graph.constant("masked", MASKED));
    return graph.node(
        "Unsqueeze", "/mask/Unsqueeze", Map.of(), scores, graph.constant("axes", false, 1, 2));
  }

  private String layer(String name, String x, String mask) {
    ModelFamily family = config.family();
    String attention = name + ".attention";
    String query = heads(family.name(attention + ".self.query"), x, 0, 2, 1, 3);
    String key = heads(family.name(attention + ".self.key"), x, 0, 2, 3, 1);
    String value = heads(family.name(attention + ".self.value"), x, 0, 2, 1, 3);
    String scope = "/" + attention;
    String product = graph.node("MatMul", scope + "/scores/MatMul", Map.of(), query, key);
    String scale = scalar("head_size_root", (float) Math.sqrt(config.headSize()));
    String scaled = graph.node("Div", scope + "/Div", Map.of(), product, scale);
    String masked = graph.node("Add", scope + "/Add", Map.of(), scaled, mask);
    String weights = graph.node("Softmax", scope + "/Softmax", Map.of("axis", -1), masked);
    String context = graph.node("MatMul", scope + "/context/MatMul", Map.of(), weights, value);
    String tokens =
        graph.node(
            "Transpose", scope + "/Transpose", Map.of("perm", new long[] {0, 2, 1, 3}), context);
    String flat =
        graph.node(
            "Reshape",
            scope + "/Reshape",
            Map.of(),
            tokens,
            integers("hidden_shape", 0, 0, config.hiddenSize()));
    String attended = linear(family.name(attention + ".output.dense"), flat);
    String middle =
        norm(
            family.name(attention + ".output.LayerNorm"),
            graph.node("Add", scope + "/residual/Add", Map.of(), attended, x));
    String inner =
        gelu("/" + name + "/gelu", linear(family.name(name + ".intermediate.dense"), middle));
    String out = linear(family.name(name + ".output.dense"), inner);
    return norm(
        family.name(name + ".output.LayerNorm"),
        graph.node("Add", "/" + name + "/residual/Add", Map.of(), out, middle));
  }

  /** {@code [batch, heads, sequence, size]}, or with the last two exchanged. */
  private String heads(String module, String x, long... order) {
    String split =
        graph.node(
            "Reshape",
            "/" + module + "/Reshape",
            Map.of(),
            linear(module, x),
            integers("heads_shape", 0, 0, config.numAttentionHeads(), config.headSize()));
    return graph.node("Transpose", "/" + module + "/Transpose", Map.of("perm", order), split);
  }

  private final List<String> constants = new ArrayList<>();

  private String integers(String name, long... values) {
    if (!constants.contains(name)) {
      constants.add(name);
      graph.constant(name, false, values);
    }
    return name;
  }

  private String scalar(String name, float value) {
    if (!constants.contains(name)) {
      constants.add(name);
      graph.constant(name, value);
    }
    return name;
  }

  private String gelu(String scope, String x) {
    String root = scalar("root_of_two", (float) Math.sqrt(2));
    String erf =
        graph.node(
            "Erf", scope + "/Erf", Map.of(), graph.node("Div", scope + "/Div", Map.of(), x, root));
    String shifted = graph.node("Add", scope + "/Add", Map.of(), erf, scalar("unit", 1f));
    String twice = graph.node("Mul", scope + "/Mul", Map.of(), x, shifted);
    return graph.node("Mul", scope + "/Mul_1", Map.of(), twice, scalar("half", 0.5f));
  }

  private String norm(String module, String x) {
    // Old checkpoints call a norm's weight gamma and its bias beta.
    String weight = tensors.containsKey(module + ".weight") ? ".weight" : ".gamma";
    String bias = tensors.containsKey(module + ".bias") ? ".bias" : ".beta";
    return graph.node(
        "LayerNormalization",
        "/" + module + "/LayerNormalization",
        Map.of("axis", -1, "epsilon", config.layerNormEps()),
        x,
        stored(module + weight),
        stored(module + bias));
  }

  private String linear(String module, String x) {
    SafetensorsWriter.Entry weight = tensor(module + ".weight");
    long out = weight.shape().extent(0);
    long in = weight.shape().extent(1);
    String transposed =
        graph.initializer(
            new SafetensorsWriter.Entry(
                module + ".weight.transposed",
                DType.F32,
                Shape.of(in, out),
                arena -> weight.load().apply(arena).transposed(arena)));
    String product = graph.node("MatMul", "/" + module + "/MatMul", Map.of(), x, transposed);
    return graph.node("Add", "/" + module + "/Add", Map.of(), stored(module + ".bias"), product);
  }

  private SafetensorsWriter.Entry tensor(String name) {
    SafetensorsWriter.Entry entry = tensors.get(name);
    if (entry == null) {
      throw new HalveException(
          "tensor " + name + " is missing; config.json describes another model");
    }
    return entry;
  }

  private String stored(String name) {
    if (!constants.contains(name)) {
      constants.add(name);
      graph.initializer(tensor(name));
    }
    return name;
  }

  private void head(String x, String architecture) {
    if (tensors.containsKey("qa_outputs.weight")) {
      String logits = linear("qa_outputs", x);
      List<String> halves =
          graph.nodes(
              "Split",
              "/Split",
              Map.of("axis", -1),
              List.of("/start", "/end"),
              logits,
              integers("halves", 1, 1));
      squeeze(halves.get(0), "start_logits");
      squeeze(halves.get(1), "end_logits");
    } else if (architecture.endsWith("ForTokenClassification")) {
      rename(linear("classifier", x), "logits");
      graph.output("logits", DType.F32, "batch", "sequence", labels("classifier"));
    } else if (architecture.endsWith("ForSequenceClassification")) {
      classify(x);
    } else {
      rename(x, "last_hidden_state");
      graph.output(
          "last_hidden_state", DType.F32, "batch", "sequence", String.valueOf(config.hiddenSize()));
    }
  }

  private void squeeze(String half, String name) {
    graph.nodes("Squeeze", half + "/Squeeze", Map.of(), List.of(name), half, integers("last", -1));
    graph.output(name, DType.F32, "batch", "sequence");
  }

  private void rename(String from, String to) {
    graph.nodes("Identity", "/" + to + "/Identity", Map.of(), List.of(to), from);
  }

  private String labels(String classifier) {
    return String.valueOf(tensor(classifier + ".weight").shape().extent(0));
  }

  private void classify(String x) {
    String first =
        graph.node(
            "Gather", "/first/Gather", Map.of("axis", 1), x, graph.constant("zero", true, 0));
    SequenceClassificationHead.Modules modules =
        SequenceClassificationHead.modules(config.family(), prefix);
    String dense = linear(modules.dense(), first);
    String activated =
        switch (modules.activation()) {
          case TANH -> graph.node("Tanh", "/classifier/Tanh", Map.of(), dense);
          case RELU -> graph.node("Relu", "/classifier/Relu", Map.of(), dense);
          case GELU -> gelu("/classifier/gelu", dense);
        };
    rename(linear(modules.classifier(), activated), "logits");
    graph.output("logits", DType.F32, "batch", labels(modules.classifier()));
  }
}
