package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.io.Json;
import dev.halve.core.io.SafetensorsWriter;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.SequencedMap;
import java.util.function.DoubleUnaryOperator;

/**
 * A small random model of each family with each head, written under Hugging Face's names, and what
 * it gives in double precision, computed one row and one token at a time from the papers' formulas.
 * Shares nothing with the engine but the files.
 */
public final class FamilyReference {
  public static final int VOCABULARY = 60;
  public static final int HIDDEN = 24;
  public static final int POSITIONS = 40;
  private static final int LAYERS = 2;
  private static final int LABELS = 3;

  private final String type;
  private final String head;
  private final String prefix;
  private final int hidden;
  private final int inner;
  private final int heads;
  private final int embedding;
  private final int positionOffset;
  private final double epsilon;
  private final SequencedMap<String, double[]> weights = new LinkedHashMap<>();
  private final SequencedMap<String, long[]> shapes = new LinkedHashMap<>();
  private final Random random;

  /**
   * @param type {@code model_type}
   * @param head {@code question-answering}, {@code text-classification}, {@code
   *     token-classification}, or {@code none} for a plain encoder, whose names have no prefix
   */
  public FamilyReference(String type, String head, long seed) {
    this(type, head, seed, HIDDEN, 40, 3);
  }

  /** The same of another size. */
  public FamilyReference(String type, String head, long seed, int hidden, int inner, int heads) {
    this.hidden = hidden;
    this.inner = inner;
    this.heads = heads;
    this.type = type;
    this.head = head;
    this.random = new Random(seed);
    boolean roberta = type.endsWith("roberta");
    this.prefix = head.equals("none") ? "" : (roberta ? "roberta" : type) + ".";
    this.embedding = type.equals("electra") ? hidden / 2 : hidden;
    this.positionOffset = roberta ? 2 : 0;
    this.epsilon = roberta ? 1e-5 : 1e-12;
    encoder();
    switch (head) {
      case "question-answering" -> linear("qa_outputs", hidden, 2);
      case "token-classification" -> linear("classifier", hidden, LABELS);
      case "text-classification" -> {
        switch (type) {
          case "bert" -> {
            linear("bert.pooler.dense", hidden, hidden);
            linear("classifier", hidden, LABELS);
          }
          case "distilbert" -> {
            linear("pre_classifier", hidden, hidden);
            linear("classifier", hidden, LABELS);
          }
          default -> {
            linear("classifier.dense", hidden, hidden);
            linear("classifier.out_proj", hidden, LABELS);
          }
        }
      }
      default -> {}
    }
  }

  private void encoder() {
    tensor(prefix + "embeddings.word_embeddings.weight", 0, VOCABULARY, embedding);
    tensor(
        prefix + "embeddings.position_embeddings.weight", 0, POSITIONS + positionOffset, embedding);
    if (!type.equals("distilbert")) {
      int types = positionOffset > 0 ? 1 : 2;
      tensor(prefix + "embeddings.token_type_embeddings.weight", 0, types, embedding);
    }
    norm(prefix + "embeddings.LayerNorm", embedding);
    if (type.equals("electra")) {
      linear(prefix + "embeddings_project", embedding, hidden);
    }
    for (int layer = 0; layer < LAYERS; layer++) {
      for (String square : new String[] {"query", "key", "value", "attended"}) {
        linear(name(layer, square), hidden, hidden);
      }
      norm(name(layer, "attention norm"), hidden);
      linear(name(layer, "up"), hidden, inner);
      linear(name(layer, "down"), inner, hidden);
      norm(name(layer, "output norm"), hidden);
    }
  }

  private String name(int layer, String part) {
    if (type.equals("distilbert")) {
      return prefix
          + "transformer.layer."
          + layer
          + switch (part) {
            case "query" -> ".attention.q_lin";
            case "key" -> ".attention.k_lin";
            case "value" -> ".attention.v_lin";
            case "attended" -> ".attention.out_lin";
            case "attention norm" -> ".sa_layer_norm";
            case "up" -> ".ffn.lin1";
            case "down" -> ".ffn.lin2";
            case "output norm" -> ".output_layer_norm";
            default -> throw new AssertionError(part);
          };
    }
    return prefix
        + "encoder.layer."
        + layer
        + switch (part) {
          case "query", "key", "value" -> ".attention.self." + part;
          case "attended" -> ".attention.output.dense";
          case "attention norm" -> ".attention.output.LayerNorm";
          case "up" -> ".intermediate.dense";
          case "down" -> ".output.dense";
          case "output norm" -> ".output.LayerNorm";
          default -> throw new AssertionError(part);
        };
  }

  private void linear(String name, int in, int out) {
    tensor(name + ".weight", 0, out, in);
    tensor(name + ".bias", 0, out);
  }

  private void norm(String name, int width) {
    tensor(name + ".weight", 1, width);
    tensor(name + ".bias", 0, width);
  }

  private void tensor(String name, double mean, long... extents) {
    double[] values = new double[(int) Arrays.stream(extents).reduce(1, (a, b) -> a * b)];
    for (int i = 0; i < values.length; i++) {
      values[i] = (float) (mean + 0.3 * random.nextGaussian());
    }
    weights.put(name, values);
    shapes.put(name, extents);
  }

  /** Keeps the first and the last of every four weights along the input of the encoder's layers. */
  public FamilyReference pruned() {
    weights.forEach((name, values) -> {
      if (name.contains(".layer.") && shapes.get(name).length == 2) {
        for (int i = 0; i < values.length; i++) {
          values[i] = i % 4 == 1 || i % 4 == 2 ? 0 : values[i];
        }
      }
    });
    return this;
  }

  /** The names of the encoder's linear weights. */
  public List<String> linearWeights() {
    return weights.keySet().stream()
        .filter(name -> name.contains(".layer.") && shapes.get(name).length == 2)
        .toList();
  }

  public SequencedMap<String, double[]> weights() {
    return weights;
  }

  /** {@code config.json} as Hugging Face has it for the family. */
  public Map<String, Object> config() {
    Map<String, Object> config = new LinkedHashMap<>();
    config.put("architectures", List.of(architecture()));
    config.put("model_type", type);
    config.put("vocab_size", VOCABULARY);
    config.put("max_position_embeddings", POSITIONS + positionOffset);
    if (head.endsWith("classification")) {
      config.put("id2label", Map.of("0", "O", "1", "B-PER", "2", "I-PER"));
    }
    if (type.equals("distilbert")) {
      config.put("dim", hidden);
      config.put("n_layers", LAYERS);
      config.put("n_heads", heads);
      config.put("hidden_dim", inner);
      config.put("activation", "gelu");
      config.put("pad_token_id", 0);
      return config;
    }
    config.put("hidden_size", hidden);
    config.put("num_hidden_layers", LAYERS);
    config.put("num_attention_heads", heads);
    config.put("intermediate_size", inner);
    config.put("hidden_act", "gelu");
    config.put("layer_norm_eps", epsilon);
    config.put("type_vocab_size", positionOffset > 0 ? 1 : 2);
    config.put("pad_token_id", positionOffset > 0 ? 1 : 0);
    if (type.equals("electra")) {
      config.put("embedding_size", embedding);
    }
    return config;
  }

  private String architecture() {
    String family =
        switch (type) {
          case "roberta" -> "Roberta";
          case "xlm-roberta" -> "XLMRoberta";
          case "distilbert" -> "DistilBert";
          case "electra" -> "Electra";
          default -> "Bert";
        };
    return family
        + switch (head) {
          case "question-answering" -> "ForQuestionAnswering";
          case "text-classification" -> "ForSequenceClassification";
          case "token-classification" -> "ForTokenClassification";
          default -> "Model";
        };
  }

  /** Writes config.json and model.safetensors. */
  public FamilyReference write(Path folder) {
    Json.write(folder.resolve("config.json"), config());
    try (Arena arena = Arena.ofConfined()) {
      SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
      weights.forEach((name, values) -> {
        Tensor tensor = Tensor.allocate(arena, DType.F32, shapes.get(name));
        for (int i = 0; i < values.length; i++) {
          tensor.setFloat(i, (float) values[i]);
        }
        tensors.put(name, tensor);
      });
      SafetensorsWriter.write(folder.resolve("model.safetensors"), tensors, Map.of("format", "pt"));
    }
    return this;
  }

  /** {@code [tokens][hidden]} of one row; the types count only where the family has them. */
  public double[][] lastHidden(int[] ids, int[] types) {
    double[][] x = new double[ids.length][embedding];
    double[] word = weights.get(prefix + "embeddings.word_embeddings.weight");
    double[] position = weights.get(prefix + "embeddings.position_embeddings.weight");
    double[] kind = weights.get(prefix + "embeddings.token_type_embeddings.weight");
    for (int t = 0; t < ids.length; t++) {
      for (int i = 0; i < embedding; i++) {
        x[t][i] =
            word[ids[t] * embedding + i]
                + position[(t + positionOffset) * embedding + i]
                + (kind == null ? 0 : kind[types[t] * embedding + i]);
      }
    }
    x = normed(x, prefix + "embeddings.LayerNorm");
    if (type.equals("electra")) {
      x = times(x, prefix + "embeddings_project");
    }
    for (int layer = 0; layer < LAYERS; layer++) {
      double[][] attended =
          attention(
              times(x, name(layer, "query")),
              times(x, name(layer, "key")),
              times(x, name(layer, "value")));
      x = normed(sum(x, times(attended, name(layer, "attended"))), name(layer, "attention norm"));
      double[][] activated = each(times(x, name(layer, "up")), FamilyReference::gelu);
      x = normed(sum(x, times(activated, name(layer, "down"))), name(layer, "output norm"));
    }
    return x;
  }

  /** {@code [tokens][2]}. */
  public double[][] questionAnswering(int[] ids, int[] types) {
    return times(lastHidden(ids, types), "qa_outputs");
  }

  /** {@code [tokens][labels]}. */
  public double[][] tokenClassification(int[] ids, int[] types) {
    return times(lastHidden(ids, types), "classifier");
  }

  /** {@code [labels]}. */
  public double[] textClassification(int[] ids, int[] types) {
    double[][] first = {lastHidden(ids, types)[0]};
    return switch (type) {
      case "bert" -> times(each(times(first, "bert.pooler.dense"), Math::tanh), "classifier")[0];
      case "distilbert" ->
          times(each(times(first, "pre_classifier"), v -> Math.max(0, v)), "classifier")[0];
      case "electra" ->
          times(
              each(times(first, "classifier.dense"), FamilyReference::gelu), "classifier.out_proj")[
              0];
      default ->
          times(each(times(first, "classifier.dense"), Math::tanh), "classifier.out_proj")[0];
    };
  }

  /** {@code [hidden]}: the mean of the tokens, or the first, of length 1 where that is wished. */
  public double[] embedding(int[] ids, int[] types, boolean mean, boolean normalized) {
    double[][] states = lastHidden(ids, types);
    double[] pooled = new double[hidden];
    int counted = mean ? states.length : 1;
    for (int t = 0; t < counted; t++) {
      for (int i = 0; i < hidden; i++) {
        pooled[i] += states[t][i] / counted;
      }
    }
    double length = Math.sqrt(Arrays.stream(pooled).map(v -> v * v).sum());
    return normalized ? Arrays.stream(pooled).map(v -> v / length).toArray() : pooled;
  }

  private static double gelu(double x) {
    return ReferenceBert.gelu(x);
  }

  private static double[][] each(double[][] x, DoubleUnaryOperator function) {
    return Arrays.stream(x)
        .map(token -> Arrays.stream(token).map(function).toArray())
        .toArray(double[][]::new);
  }

  private static double[][] sum(double[][] a, double[][] b) {
    double[][] sum = new double[a.length][a[0].length];
    for (int t = 0; t < a.length; t++) {
      for (int i = 0; i < a[t].length; i++) {
        sum[t][i] = a[t][i] + b[t][i];
      }
    }
    return sum;
  }

  private double[][] times(double[][] x, String module) {
    double[] weight = weights.get(module + ".weight");
    double[] bias = weights.get(module + ".bias");
    double[][] y = new double[x.length][bias.length];
    for (int t = 0; t < x.length; t++) {
      for (int o = 0; o < bias.length; o++) {
        y[t][o] = bias[o];
        for (int i = 0; i < x[t].length; i++) {
          y[t][o] += weight[o * x[t].length + i] * x[t][i];
        }
      }
    }
    return y;
  }

  private double[][] normed(double[][] x, String module) {
    double[] scale = weights.get(module + ".weight");
    double[] shift = weights.get(module + ".bias");
    double[][] y = new double[x.length][scale.length];
    for (int t = 0; t < x.length; t++) {
      double mean = Arrays.stream(x[t]).average().orElseThrow();
      double variance =
          Arrays.stream(x[t]).map(v -> (v - mean) * (v - mean)).average().orElseThrow();
      for (int i = 0; i < scale.length; i++) {
        y[t][i] = (x[t][i] - mean) / Math.sqrt(variance + epsilon) * scale[i] + shift[i];
      }
    }
    return y;
  }

  private double[][] attention(double[][] q, double[][] k, double[][] v) {
    int size = hidden / heads;
    double[][] out = new double[q.length][hidden];
    for (int head = 0; head < heads; head++) {
      for (int i = 0; i < q.length; i++) {
        double[] p = new double[q.length];
        double total = 0;
        for (int j = 0; j < q.length; j++) {
          double score = 0;
          for (int d = head * size; d < (head + 1) * size; d++) {
            score += q[i][d] * k[j][d];
          }
          p[j] = Math.exp(score / Math.sqrt(size));
          total += p[j];
        }
        for (int j = 0; j < q.length; j++) {
          for (int d = head * size; d < (head + 1) * size; d++) {
            out[i][d] += p[j] / total * v[j][d];
          }
        }
      }
    }
    return out;
  }
}
