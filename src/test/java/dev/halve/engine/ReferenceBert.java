package dev.halve.engine;

import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * BERT for question answering in double precision, written as the formulas read, one token at a
 * time. The oracle of the engine's forward pass and, through central differences, of its gradients.
 */
public final class ReferenceBert {
  final Map<String, double[]> parameters = new HashMap<>();
  private final Map<String, double[][]> inputs = new HashMap<>();
  private final BertConfig config;
  private final PackedBatch batch;
  private final int seed;
  private final boolean training;
  private int site;

  public ReferenceBert(
      BertConfig config, List<Parameter> from, PackedBatch batch, boolean training, int seed) {
    this.config = config;
    this.batch = batch;
    this.training = training;
    this.seed = seed;
    for (Parameter parameter : from) {
      float[] values = parameter.value().toFloatArray();
      double[] doubles = new double[values.length];
      for (int i = 0; i < values.length; i++) {
        doubles[i] = values[i];
      }
      parameters.put(parameter.name(), doubles);
    }
  }

  double[] parameter(String name) {
    return parameters.get(name);
  }

  /** What went into a linear layer when last encoded, {@code [tokens][in]}, by its name. */
  public double[][] input(String name) {
    return inputs.get(name);
  }

  /** {@code [tokens][hidden]}. */
  public double[][] encode() {
    site = 0;
    int hidden = config.embeddingSize();
    String prefix = config.family().prefix() + ".";
    double[][] x = new double[batch.tokens()][hidden];
    for (int row = 0; row < batch.rows(); row++) {
      for (int t = batch.rowOffsets()[row]; t < batch.rowOffsets()[row + 1]; t++) {
        for (int i = 0; i < hidden; i++) {
          x[t][i] =
              parameter(prefix + "embeddings.word_embeddings.weight")[
                      batch.tokenIds()[t] * hidden + i]
                  + parameter(prefix + "embeddings.position_embeddings.weight")[
                      (t - batch.rowOffsets()[row]) * hidden + i]
                  + parameter(prefix + "embeddings.token_type_embeddings.weight")[
                      batch.typeIds()[t] * hidden + i];
        }
      }
    }
    x = dropout(norm(x, prefix + "embeddings.LayerNorm"), config.hiddenDropoutProb());
    if (hidden != config.hiddenSize()) {
      x = linear(x, prefix + "embeddings_project");
    }
    for (int layer = 0; layer < config.numHiddenLayers(); layer++) {
      String name = prefix + "encoder.layer." + layer;
      double[][] context =
          attention(
              linear(x, name + ".attention.self.query"),
              linear(x, name + ".attention.self.key"),
              linear(x, name + ".attention.self.value"));
      double[][] attended =
          dropout(linear(context, name + ".attention.output.dense"), config.hiddenDropoutProb());
      x = norm(plus(attended, x), name + ".attention.output.LayerNorm");
      double[][] inner = linear(x, name + ".intermediate.dense");
      for (double[] token : inner) {
        for (int i = 0; i < token.length; i++) {
          token[i] = gelu(token[i]);
        }
      }
      double[][] out = dropout(linear(inner, name + ".output.dense"), config.hiddenDropoutProb());
      x = norm(plus(out, x), name + ".output.LayerNorm");
    }
    return x;
  }

  /** {@code [tokens][2]}. */
  double[][] logits() {
    return linear(encode(), "qa_outputs");
  }

  /** The mean over rows of the halved cross entropies of start and end. */
  public double loss(int[] starts, int[] ends) {
    double[][] logits = logits();
    double total = 0;
    int counted = 0;
    for (int row = 0; row < batch.rows(); row++) {
      int first = batch.rowOffsets()[row];
      int n = batch.rowLength(row);
      if (starts[row] >= n || ends[row] >= n) {
        continue;
      }
      counted++;
      int[] targets = {starts[row], ends[row]};
      for (int column = 0; column < 2; column++) {
        double sum = 0;
        for (int t = first; t < first + n; t++) {
          sum += Math.exp(logits[t][column]);
        }
        total += 0.5 * (Math.log(sum) - logits[first + targets[column]][column]);
      }
    }
    return total / counted;
  }

  private double[][] linear(double[][] x, String name) {
    double[] weight = parameter(name + ".weight");
    double[] bias = parameter(name + ".bias");
    inputs.put(name, x);
    double[][] y = new double[x.length][bias.length];
    for (int t = 0; t < x.length; t++) {
      for (int o = 0; o < bias.length; o++) {
        double sum = bias[o];
        for (int i = 0; i < x[t].length; i++) {
          sum += weight[o * x[t].length + i] * x[t][i];
        }
        y[t][o] = sum;
      }
    }
    return y;
  }

  private double[][] norm(double[][] x, String name) {
    double[] weight = parameter(name + ".weight");
    double[] bias = parameter(name + ".bias");
    double[][] y = new double[x.length][weight.length];
    for (int t = 0; t < x.length; t++) {
      double mean = 0;
      for (double each : x[t]) {
        mean += each / weight.length;
      }
      double variance = 0;
      for (double each : x[t]) {
        variance += (each - mean) * (each - mean) / weight.length;
      }
      for (int i = 0; i < weight.length; i++) {
        y[t][i] =
            (x[t][i] - mean) / Math.sqrt(variance + config.layerNormEps()) * weight[i] + bias[i];
      }
    }
    return y;
  }

  private double[][] attention(double[][] q, double[][] k, double[][] v) {
    Dropout dropout = next(config.attentionProbsDropoutProb());
    int heads = config.numAttentionHeads();
    int size = config.headSize();
    double[][] out = new double[q.length][config.hiddenSize()];
    for (int row = 0; row < batch.rows(); row++) {
      int first = batch.rowOffsets()[row];
      int n = batch.rowLength(row);
      for (int head = 0; head < heads; head++) {
        for (int i = first; i < first + n; i++) {
          double[] p = new double[n];
          double sum = 0;
          for (int j = 0; j < n; j++) {
            double score = 0;
            for (int d = head * size; d < (head + 1) * size; d++) {
              score += q[i][d] * k[first + j][d];
            }
            p[j] = Math.exp(score / Math.sqrt(size));
            sum += p[j];
          }
          for (int j = 0; j < n; j++) {
            double kept = dropped(dropout, i * heads + head, j, p[j] / sum);
            for (int d = head * size; d < (head + 1) * size; d++) {
              out[i][d] += kept * v[first + j][d];
            }
          }
        }
      }
    }
    return out;
  }

  private double[][] dropout(double[][] x, float probability) {
    Dropout dropout = next(probability);
    double[][] y = new double[x.length][x[0].length];
    for (int t = 0; t < x.length; t++) {
      for (int i = 0; i < x[t].length; i++) {
        y[t][i] = dropped(dropout, t, i, x[t][i]);
      }
    }
    return y;
  }

  private Dropout next(float probability) {
    site++;
    return training && probability > 0 ? new Dropout(probability, seed, site) : Dropout.NONE;
  }

  static double dropped(Dropout dropout, int row, int column, double value) {
    if (dropout.isNone()) {
      return value;
    }
    return dropout.keeps(row, column) ? value / (1 - (double) dropout.probability()) : 0;
  }

  private static double[][] plus(double[][] a, double[][] b) {
    double[][] sum = new double[a.length][a[0].length];
    for (int t = 0; t < a.length; t++) {
      for (int i = 0; i < a[t].length; i++) {
        sum[t][i] = a[t][i] + b[t][i];
      }
    }
    return sum;
  }

  static double gelu(double x) {
    return x * 0.5 * (1 + erf(x / Math.sqrt(2)));
  }

  /**
   * The error function by its Maclaurin series, and by its continued fraction for large arguments.
   */
  static double erf(double x) {
    double z = Math.abs(x);
    double result;
    if (z < 3) {
      double term = z;
      double sum = z;
      for (int n = 1; Math.abs(term) > 1e-17 * Math.abs(sum) && n < 200; n++) {
        term *= -z * z / n;
        sum += term / (2 * n + 1);
      }
      result = 2 / Math.sqrt(Math.PI) * sum;
    } else {
      double fraction = 0;
      for (int n = 60; n > 0; n--) {
        fraction = n / 2.0 / (z + fraction);
      }
      result = 1 - Math.exp(-z * z) / Math.sqrt(Math.PI) / (z + fraction);
    }
    return Math.copySign(result, x);
  }
}
