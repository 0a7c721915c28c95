package dev.halve.cuda;

/** The operations as their formulas say, in double precision, one loop an index. */
final class Reference {
  private Reference() {}

  /** {@code x [tokens, in] · weightᵀ [out, in] + bias}. */
  static double[] linear(float[] x, float[] weight, float[] bias, int tokens, int out, int in) {
    double[] y = new double[tokens * out];
    for (int t = 0; t < tokens; t++) {
      for (int o = 0; o < out; o++) {
        double sum = bias[o];
        for (int i = 0; i < in; i++) {
          sum += (double) x[t * in + i] * weight[o * in + i];
        }
        y[t * out + o] = sum;
      }
    }
    return y;
  }

  static double gelu(double x) {
    return 0.5 * x * (1 + erf(x / Math.sqrt(2)));
  }

  /** By its series, and past 3 by the continued fraction of its complement. */
  static double erf(double x) {
    double a = Math.abs(x);
    if (a > 3) {
      double fraction = 0;
      for (int k = 60; k > 0; k--) {
        fraction = k / 2.0 / (a + fraction);
      }
      return Math.signum(x) * (1 - Math.exp(-a * a) / Math.sqrt(Math.PI) / (a + fraction));
    }
    double term = x;
    double sum = x;
    for (int n = 1; n < 200; n++) {
      term *= -x * x / n;
      sum += term / (2 * n + 1);
    }
    return 2 / Math.sqrt(Math.PI) * sum;
  }

  static double[] layerNorm(
      double[] x, float[] weight, float[] bias, double epsilon, int tokens, int hidden) {
    double[] y = new double[x.length];
    for (int t = 0; t < tokens; t++) {
      double mean = 0;
      for (int h = 0; h < hidden; h++) {
        mean += x[t * hidden + h] / hidden;
      }
      double variance = 0;
      for (int h = 0; h < hidden; h++) {
        double difference = x[t * hidden + h] - mean;
        variance += difference * difference / hidden;
      }
      for (int h = 0; h < hidden; h++) {
        y[t * hidden + h] =
            (x[t * hidden + h] - mean) / Math.sqrt(variance + epsilon) * weight[h] + bias[h];
      }
    }
    return y;
  }

  /** {@code softmax(q · kᵀ / sqrt(headSize)) · v} within each row. */
  static double[] attention(float[] qkv, int[] rowOffsets, int heads, int headSize) {
    int hidden = heads * headSize;
    int stride = 3 * hidden;
    double[] out = new double[rowOffsets[rowOffsets.length - 1] * hidden];
    for (int row = 0; row + 1 < rowOffsets.length; row++) {
      for (int head = 0; head < heads; head++) {
        int from = rowOffsets[row];
        int to = rowOffsets[row + 1];
        for (int query = from; query < to; query++) {
          double[] p = new double[to - from];
          double largest = Double.NEGATIVE_INFINITY;
          for (int key = from; key < to; key++) {
            double dot = 0;
            for (int d = 0; d < headSize; d++) {
              dot +=
                  (double) qkv[query * stride + head * headSize + d]
                      * qkv[key * stride + hidden + head * headSize + d];
            }
            p[key - from] = dot / Math.sqrt(headSize);
            largest = Math.max(largest, p[key - from]);
          }
          double sum = 0;
          for (int key = 0; key < p.length; key++) {
            p[key] = Math.exp(p[key] - largest);
            sum += p[key];
          }
          for (int key = from; key < to; key++) {
            for (int d = 0; d < headSize; d++) {
              out[query * hidden + head * headSize + d] +=
                  p[key - from] / sum * qkv[key * stride + 2 * hidden + head * headSize + d];
            }
          }
        }
      }
    }
    return out;
  }

  /** {@code |found - expected| / |expected|} in the Frobenius norm; NaN if anything is. */
  static double relativeError(float[] found, double[] expected) {
    double difference = 0;
    double norm = 0;
    for (int i = 0; i < expected.length; i++) {
      difference += (found[i] - expected[i]) * (found[i] - expected[i]);
      norm += expected[i] * expected[i];
    }
    return Math.sqrt(difference / Math.max(norm, 1e-30));
  }
}
