package dev.halve.cuda;

/** The operations as their formulas say, in double precision, one loop an index. */
final class Reference {
  private Reference() {}

  /** {@code x [tokens, in] · weightᵀ [out, in] + bias}. */
  static double[] linear(float[] x, float[] weight, float[] bias, int tokens, int out, int in) {
    return linear(wide(x), weight, bias, tokens, out, in);
  }

  static double[] linear(double[] x, float[] weight, float[] bias, int tokens, int out, int in) {
    double[] y = new double[tokens * out];
    for (int t = 0; t < tokens; t++) {
      for (int o = 0; o < out; o++) {
        double sum = bias[o];
        for (int i = 0; i < in; i++) {
          sum += x[t * in + i] * weight[o * in + i];
        }
        y[t * out + o] = sum;
      }
    }
    return y;
  }

  static double[] wide(float[] values) {
    double[] wide = new double[values.length];
    for (int i = 0; i < values.length; i++) {
      wide[i] = values[i];
    }
    return wide;
  }

  static float[] narrow(double[] values) {
    float[] narrow = new float[values.length];
    for (int i = 0; i < values.length; i++) {
      narrow[i] = (float) values[i];
    }
    return narrow;
  }

  /** Scale and shift of each row, {@code [rows, 2]}, that make it its norm. */
  static double[] norms(double[] matrix, double epsilon, int rows, int columns) {
    double[] norms = new double[2 * rows];
    for (int row = 0; row < rows; row++) {
      double mean = 0;
      double variance = 0;
      for (int column = 0; column < columns; column++) {
        mean += matrix[row * columns + column] / columns;
      }
      for (int column = 0; column < columns; column++) {
        variance += Math.pow(matrix[row * columns + column] - mean, 2) / columns;
      }
      norms[2 * row] = 1 / Math.sqrt(variance + epsilon);
      norms[2 * row + 1] = -mean * norms[2 * row];
    }
    return norms;
  }

  /** Mean and sum of squares around it of each 64 columns: {@code [blocks, rows, 2]}. */
  static double[] moments(float[] matrix, int rows, int columns) {
    int blocks = Math.ceilDiv(columns, 64);
    double[] moments = new double[blocks * rows * 2];
    for (int block = 0; block < blocks; block++) {
      int end = Math.min(columns, 64 * block + 64);
      for (int row = 0; row < rows; row++) {
        double sum = 0;
        for (int column = 64 * block; column < end; column++) {
          sum += matrix[row * columns + column];
        }
        double mean = sum / (end - 64 * block);
        double squares = 0;
        for (int column = 64 * block; column < end; column++) {
          squares += Math.pow(matrix[row * columns + column] - mean, 2);
        }
        moments[(block * rows + row) * 2] = mean;
        moments[(block * rows + row) * 2 + 1] = squares;
      }
    }
    return moments;
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
