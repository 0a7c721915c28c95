package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.util.List;
import java.util.function.IntToDoubleFunction;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/**
 * Each operation of the CPU device against the formula in double precision, at odd shapes and into
 * poisoned outputs.
 */
class DeviceOperationsTest {
  private final Device device = Devices.open("cpu");
  private final Pool pool = device.openPool();
  private final Random24 random = new Random24(31);

  @AfterEach
  void close() {
    pool.close();
    device.close();
  }

  private Tensor poisoned(long... extents) {
    Tensor tensor = pool.allocate(DType.F32, extents);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, Float.NaN);
    }
    return tensor;
  }

  /** Relative Frobenius error of a tensor against a formula of the element's index. */
  private static double error(Tensor found, IntToDoubleFunction expected) {
    double difference = 0;
    double norm = 1e-30;
    for (int i = 0; i < found.elements(); i++) {
      double e = expected.applyAsDouble(i);
      difference += (found.getFloat(i) - e) * (found.getFloat(i) - e);
      norm += e * e;
    }
    return Math.sqrt(difference / norm);
  }

  @ParameterizedTest
  @CsvSource({"1,1", "3,33", "130,17", "259,96", "77,800"})
  void gramsAreAddedToOnAndAboveTheDiagonal(int tokens, int in) {
    Tensor x = random.normal(device, pool, 1, tokens, in);
    Tensor products = random.normal(device, pool, 1, in, in);
    float[] before = products.toFloatArray();
    device.addGram(x, products);
    for (int i = 0; i < in; i++) {
      for (int j = i; j < in; j++) {
        double sum = before[i * in + j];
        double size = 1 + Math.abs(sum);
        for (long t = 0; t < tokens; t++) {
          double term = (double) x.getFloat(t * in + i) * x.getFloat(t * in + j);
          sum += term;
          size += Math.abs(term);
        }
        assertThat((double) products.getFloat((long) i * in + j))
            .isCloseTo(sum, within(1e-6 * size));
      }
    }
  }

  @ParameterizedTest
  @CsvSource({"1,1,1", "1,7,5", "3,64,33", "130,17,2", "259,40,96", "513,12,300"})
  void aProductIsTheSumOfProducts(int tokens, int in, int out) {
    Tensor x = random.normal(device, pool, 1, tokens, in);
    Tensor weight = random.normal(device, pool, 1, out, in);
    Tensor bias = random.normal(device, pool, 1, out);
    int width = out + 3;
    for (Epilogue epilogue : Epilogue.values()) {
      Tensor y = poisoned(tokens, width);
      Parameter parameter = new Parameter("w", weight, weight);
      device.linear(x, new Weight.Dense(parameter), bias, epilogue, y, 2);
      double worst = 0;
      for (int t = 0; t < tokens; t++) {
        assertThat(y.getFloat((long) t * width)).isNaN();
        assertThat(y.getFloat((long) t * width + width - 1)).isNaN();
        for (int o = 0; o < out; o++) {
          double sum = bias.getFloat(o);
          double size = Math.abs(sum);
          for (int i = 0; i < in; i++) {
            double term =
                (double) x.getFloat((long) t * in + i) * weight.getFloat((long) o * in + i);
            sum += term;
            size += Math.abs(term);
          }
          double expected = epilogue == Epilogue.GELU ? ReferenceBert.gelu(sum) : sum;
          worst =
              Math.max(
                  worst, Math.abs(y.getFloat((long) t * width + 2 + o) - expected) / (1 + size));
        }
      }
      assertThat(worst).isLessThan(1e-6);
    }
  }

  @ParameterizedTest
  @CsvSource({"1,5,7", "70,33,18", "300,64,130"})
  void theProductsGradientsAreItsFormulas(int tokens, int in, int out) {
    Tensor x = random.normal(device, pool, 1, tokens, in);
    Tensor weight = random.normal(device, pool, 1, out, in);
    Tensor dY = random.normal(device, pool, 1, tokens, out + 1);
    Tensor dWeight = random.normal(device, pool, 1, out, in);
    Tensor dBias = random.normal(device, pool, 1, out);
    float[] weightBefore = dWeight.toFloatArray();
    float[] biasBefore = dBias.toFloatArray();
    Tensor dX = poisoned(tokens, in);
    Weight dense = new Weight.Dense(new Parameter("w", weight, weight));
    device.linearBackward(x, dense, dY, 1, dWeight, dBias, dX, false);

    assertThat(
            error(
                dWeight,
                at -> {
                  double sum = weightBefore[at];
                  for (int t = 0; t < tokens; t++) {
                    sum +=
                        (double) dY.getFloat((long) t * (out + 1) + 1 + at / in)
                            * x.getFloat((long) t * in + at % in);
                  }
                  return sum;
                }))
        .isLessThan(1e-6);
    assertThat(
            error(
                dBias,
                at -> {
                  double sum = biasBefore[at];
                  for (int t = 0; t < tokens; t++) {
                    sum += dY.getFloat((long) t * (out + 1) + 1 + at);
                  }
                  return sum;
                }))
        .isLessThan(1e-6);
    IntToDoubleFunction inputGradient =
        at -> {
          double sum = 0;
          for (int o = 0; o < out; o++) {
            sum +=
                (double) dY.getFloat((long) (at / in) * (out + 1) + 1 + o)
                    * weight.getFloat((long) o * in + at % in);
          }
          return sum;
        };
    assertThat(error(dX, inputGradient)).isLessThan(1e-6);
    device.linearBackward(x, dense, dY, 1, dWeight, dBias, dX, true);
    assertThat(error(dX, at -> 2 * inputGradient.applyAsDouble(at))).isLessThan(1e-6);
  }

  @Test
  void geluAndItsDerivativeAreTheErfForm() {
    int n = 4001;
    Tensor x = pool.allocate(DType.F32, 1, n);
    Tensor ones = pool.allocate(DType.F32, 1, n);
    for (int i = 0; i < n; i++) {
      x.setFloat(i, (i - 2000) / 150f);
      ones.setFloat(i, 1);
    }
    Tensor y = poisoned(1, n);
    Tensor dX = poisoned(1, n);
    device.gelu(x, y);
    device.geluBackward(x, ones, dX, null);
    for (int i = 0; i < n; i++) {
      double at = x.getFloat(i);
      double cdf = 0.5 * (1 + ReferenceBert.erf(at / Math.sqrt(2)));
      double pdf = Math.exp(-at * at / 2) / Math.sqrt(2 * Math.PI);
      assertThat(Math.abs(y.getFloat(i) - at * cdf) / (1 + Math.abs(at)))
          .as("gelu(%s)", at)
          .isLessThan(5e-7);
      assertThat(Math.abs(dX.getFloat(i) - (cdf + at * pdf))).as("gelu'(%s)", at).isLessThan(1e-6);
    }
  }

  @ParameterizedTest
  @CsvSource({"1,1", "3,7", "67,48", "130,384"})
  void aNormIsItsFormula(int tokens, int hidden) {
    Tensor x = random.normal(device, pool, 2, tokens, hidden);
    Tensor residual = random.normal(device, pool, 2, tokens, hidden);
    Tensor gamma = random.normal(device, pool, 1, hidden);
    Tensor beta = random.normal(device, pool, 1, hidden);
    Tensor out = poisoned(tokens, hidden);
    float epsilon = 1e-3f;
    double[] mean = new double[tokens];
    double[] deviation = new double[tokens];
    for (int t = 0; t < tokens; t++) {
      for (int i = 0; i < hidden; i++) {
        mean[t] += sum(x, residual, t * hidden + i) / hidden;
      }
      for (int i = 0; i < hidden; i++) {
        double d = sum(x, residual, t * hidden + i) - mean[t];
        deviation[t] += d * d / hidden;
      }
      deviation[t] = Math.sqrt(deviation[t] + epsilon);
    }
    IntToDoubleFunction expected =
        at -> {
          int t = at / hidden;
          int i = at % hidden;
          return (sum(x, residual, at) - mean[t]) / deviation[t] * gamma.getFloat(i)
              + beta.getFloat(i);
        };
    device.layerNorm(x, Dropout.NONE, residual, gamma, beta, epsilon, null, null, out);
    assertThat(error(out, expected)).isLessThan(2e-6);

    // In training the sum replaces x.
    Tensor statistics = poisoned(tokens, 2);
    float[] before = x.toFloatArray();
    device.layerNorm(x, Dropout.NONE, residual, gamma, beta, epsilon, x, statistics, out);
    assertThat(error(x, at -> (double) before[at] + residual.getFloat(at))).isLessThan(1e-7);
    assertThat(error(statistics, at -> at % 2 == 0 ? mean[at / 2] : 1 / deviation[at / 2]))
        .isLessThan(1e-5);
  }

  private static double sum(Tensor a, Tensor b, int at) {
    return (double) a.getFloat(at) + b.getFloat(at);
  }

  @Test
  void dropoutDropsWhereItsGeneratorSaysAndAboutAsOftenAsAsked() {
    Dropout dropout = new Dropout(0.1f, 99, 3);
    int tokens = 300;
    int width = 71;
    Tensor x = random.normal(device, pool, 1, tokens, width);
    Tensor y = poisoned(tokens, width);
    device.dropout(x, dropout, y);
    int dropped = 0;
    for (int t = 0; t < tokens; t++) {
      for (int i = 0; i < width; i++) {
        float found = y.getFloat((long) t * width + i);
        double expected = ReferenceBert.dropped(dropout, t, i, x.getFloat((long) t * width + i));
        assertThat((double) found).isCloseTo(expected, org.assertj.core.data.Offset.offset(1e-6));
        dropped += found == 0 ? 1 : 0;
      }
    }
    double share = dropped / (double) (tokens * width);
    // Five standard deviations of a binomial of 21,300 draws.
    assertThat(share).isBetween(0.1 - 0.0103, 0.1 + 0.0103);
  }

  @Test
  void adamWFollowsTheFormulaAndHoldsMaskedElementsAtZero() {
    int n = 203;
    Tensor value = random.normal(device, pool, 1, n);
    Parameter parameter = new Parameter("w", value, value);
    Parameter.prepareTraining(pool, List.of(parameter));
    Tensor mask = pool.allocate(DType.U8, n);
    for (int i = 0; i < n; i++) {
      mask.segment().set(java.lang.foreign.ValueLayout.JAVA_BYTE, i, (byte) (i % 3 == 0 ? 0 : 1));
    }
    parameter.setMask(mask);
    AdamW settings = new AdamW(1e-2, 0.9, 0.999, 1e-8, 0.1, 1.0);
    double[] p = new double[n];
    double[] m = new double[n];
    double[] v = new double[n];
    for (int i = 0; i < n; i++) {
      p[i] = i % 3 == 0 ? 0 : value.getFloat(i);
    }
    Tensor norm = pool.allocate(DType.F32, 1);
    for (int step = 1; step <= 50; step++) {
      random.fill(device, parameter.gradient(), 0, step < 25 ? 1 : 1e-3);
      float[] g = parameter.gradient().toFloatArray();
      double squares = 0;
      for (int i = 0; i < n; i++) {
        squares += i % 3 == 0 ? 0 : (double) g[i] * g[i];
      }
      double clip = Math.min(1, 1.0 / (Math.sqrt(squares) + 1e-6));
      for (int i = 0; i < n; i++) {
        if (i % 3 == 0) {
          continue;
        }
        p[i] *= 1 - 1e-2 * 0.1;
        m[i] = 0.9 * m[i] + 0.1 * clip * g[i];
        v[i] = 0.999 * v[i] + 0.001 * clip * g[i] * clip * g[i];
        double mHat = m[i] / (1 - Math.pow(0.9, step));
        double vHat = v[i] / (1 - Math.pow(0.999, step));
        p[i] -= 1e-2 * mHat / (Math.sqrt(vHat) + 1e-8);
      }
      device.adamW(List.of(parameter), settings, step, norm);
      assertThat((double) norm.getFloat(0))
          .isCloseTo(Math.sqrt(squares), org.assertj.core.data.Offset.offset(1e-4));
    }
    assertThat(error(value, i -> p[i])).isLessThan(2e-5);
    for (int i = 0; i < n; i += 3) {
      assertThat(Float.floatToRawIntBits(value.getFloat(i))).isZero();
      assertThat(parameter.firstMoment().getFloat(i)).isZero();
      assertThat(parameter.secondMoment().getFloat(i)).isZero();
    }
    assertThat(parameter.gradient().toFloatArray()).containsOnly(0f);
  }
}
