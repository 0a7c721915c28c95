package dev.halve.core.sparsify;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class SparseGptSparsifierTest {
  private final Arena arena = Arena.ofConfined();
  private final SplittableRandom random = new SplittableRandom(12);

  @AfterEach
  void close() {
    arena.close();
  }

  @Test
  void momentsAreTheSumOfTheProductsOfAllBatches() {
    for (int in : new int[] {1, 5, 256, 300}) {
      try (InputMoments moments = new InputMoments(in)) {
        double[] expected = new double[in * in];
        for (int batch = 0; batch < 3; batch++) {
          Tensor x = correlated(17, in);
          moments.add(Gram.of(arena, x), x.extent(0));
          for (int token = 0; token < 17; token++) {
            for (int i = 0; i < in; i++) {
              for (int j = 0; j < in; j++) {
                expected[i * in + j] +=
                    (double) x.getFloat((long) token * in + i) * x.getFloat((long) token * in + j);
              }
            }
          }
        }
        assertThat(moments.tokens()).isEqualTo(51);
        for (int i = 0; i < in; i++) {
          assertThat(moments.norms(arena).getFloat(i))
              .isCloseTo((float) Math.sqrt(expected[i * in + i]), within(1e-4f));
          for (int j = 0; j < in; j++) {
            assertThat(moments.get(i, j)).isCloseTo(expected[i * in + j], within(1e-4));
          }
        }
      }
    }
  }

  @Test
  void theSquaredErrorOfAChangeIsThatOfTheProducts() {
    for (int in : new int[] {4, 256, 300}) {
      Tensor x = correlated(40, in);
      Tensor delta = gaussian(259, in);
      try (InputMoments moments = new InputMoments(in)) {
        moments.add(Gram.of(arena, x), x.extent(0));
        double[] errors = moments.squaredErrors(delta);
        assertThat(errors).hasSize(259);
        for (int row = 0; row < errors.length; row++) {
          double expected = 0;
          for (int token = 0; token < 40; token++) {
            double product = 0;
            for (int i = 0; i < in; i++) {
              product +=
                  (double) x.getFloat((long) token * in + i) * delta.getFloat((long) row * in + i);
            }
            expected += product * product;
          }
          assertThat(errors[row]).isCloseTo(expected, within(1e-5 * expected));
        }
      }
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 37, 64, 65, 200})
  void theFactorIsThatOfTheInverse(int in) {
    try (InputMoments moments = new InputMoments(in)) {
      moments.add(Gram.of(arena, correlated(100, in)), 100);
      double[][] hessian = damped(moments, 0.01);
      Tensor factor = moments.inverseFactor(0.01);
      // U·H·Uᵀ = I says that Uᵀ·U is the inverse, and U is upper by what is read of it.
      double[][] half = new double[in][in];
      for (int i = 0; i < in; i++) {
        for (int k = i; k < in; k++) {
          for (int l = 0; l < in; l++) {
            half[i][l] += at(factor, i, k) * hessian[k][l];
          }
        }
      }
      for (int i = 0; i < in; i++) {
        for (int j = 0; j < in; j++) {
          double sum = 0;
          for (int l = j; l < in; l++) {
            sum += half[i][l] * at(factor, j, l);
          }
          assertThat(sum).isCloseTo(i == j ? 1 : 0, within(1e-9));
        }
      }
    }
  }

  @ParameterizedTest
  @CsvSource({
    "2:4, 8, 32",
    "1:4, 5, 32",
    "4:8, 70, 24",
    "2:4, 3, 260",
    "10:20, 9, 40",
    "2:4, 2, 4"
  })
  void weightsAndMasksAreThoseOfThePapersDefinition(String text, int out, int in) {
    NOfM pattern = NOfM.parse(text);
    Tensor weight = gaussian(out, in);
    Tensor mask = Tensor.allocate(arena, DType.U8, out, in);
    try (InputMoments moments = new InputMoments(in)) {
      moments.add(Gram.of(arena, correlated(2 * in, in)), 2L * in);
      double[][] expected = definition(weight, damped(moments, 0.05), pattern);
      SparseGptSparsifier.prune(weight, mask, moments, pattern, 0.05);
      for (int row = 0; row < out; row++) {
        for (int i = 0; i < in; i++) {
          long index = (long) row * in + i;
          boolean kept = mask.segment().get(ValueLayout.JAVA_BYTE, index) == 1;
          assertThat(kept).isEqualTo(expected[row][i] != 0);
          assertThat((double) weight.getFloat(index)).isCloseTo(expected[row][i], within(1e-5));
        }
      }
    }
  }

  /**
   * Column by column with the inverse of the Hessian of the columns that are left: the element of
   * each group with the smallest {@code w² / H⁻¹[0, 0]} go, the rest moves by {@code -w / H⁻¹[0, 0]
   * · H⁻¹[0]}.
   */
  private static double[][] definition(Tensor weight, double[][] hessian, NOfM pattern) {
    int out = (int) weight.extent(0);
    int in = (int) weight.extent(1);
    double[][] w = new double[out][in];
    for (int row = 0; row < out; row++) {
      for (int i = 0; i < in; i++) {
        w[row][i] = weight.getFloat((long) row * in + i);
      }
    }
    double[][][] inverses = new double[in][][];
    for (int i = 0; i < in; i++) {
      inverses[i] = inverse(hessian, i);
    }
    for (double[] row : w) {
      boolean[] pruned = new boolean[in];
      for (int i = 0; i < in; i++) {
        if (i % pattern.group() == 0) {
          for (int gone = 0; gone < pattern.group() - pattern.kept(); gone++) {
            int least = -1;
            for (int j = i; j < i + pattern.group(); j++) {
              if (!pruned[j]
                  && (least < 0
                      || row[j] * row[j] / inverses[j][0][0]
                          < row[least] * row[least] / inverses[least][0][0])) {
                least = j;
              }
            }
            pruned[least] = true;
          }
        }
        if (pruned[i]) {
          double step = row[i] / inverses[i][0][0];
          for (int j = i + 1; j < in; j++) {
            row[j] -= step * inverses[i][0][j - i];
          }
          row[i] = 0;
        }
      }
    }
    return w;
  }

  /** The inverse of the matrix from a row and column on, by Gauss and Jordan with pivoting. */
  private static double[][] inverse(double[][] matrix, int from) {
    int n = matrix.length - from;
    double[][] a = new double[n][2 * n];
    for (int i = 0; i < n; i++) {
      System.arraycopy(matrix[from + i], from, a[i], 0, n);
      a[i][n + i] = 1;
    }
    for (int column = 0; column < n; column++) {
      int pivot = column;
      for (int row = column; row < n; row++) {
        pivot = Math.abs(a[row][column]) > Math.abs(a[pivot][column]) ? row : pivot;
      }
      double[] swap = a[column];
      a[column] = a[pivot];
      a[pivot] = swap;
      double scale = a[column][column];
      for (int k = 0; k < 2 * n; k++) {
        a[column][k] /= scale;
      }
      for (int row = 0; row < n; row++) {
        double times = a[row][column];
        if (row != column && times != 0) {
          for (int k = 0; k < 2 * n; k++) {
            a[row][k] -= times * a[column][k];
          }
        }
      }
    }
    double[][] inverse = new double[n][n];
    for (int i = 0; i < n; i++) {
      System.arraycopy(a[i], n, inverse[i], 0, n);
    }
    return inverse;
  }

  @Test
  void outputsChangeLessThanByMagnitudeAlone() {
    int in = 64;
    Tensor x = correlated(500, in);
    Tensor byMagnitude = gaussian(32, in);
    Tensor bySparseGpt = Tensor.allocate(arena, DType.F32, 32, in);
    bySparseGpt.copyFrom(byMagnitude);
    Tensor dense = Tensor.allocate(arena, DType.F32, 32, in);
    dense.copyFrom(byMagnitude);
    Sparsifier.apply(
        WeightNormSparsifier.mask(arena, byMagnitude, WeightNormSparsifier.Config.SEMI_STRUCTURED),
        byMagnitude);
    HostLayer layer = new HostLayer(arena, "layer", bySparseGpt);
    try (InputMoments moments = new InputMoments(in)) {
      moments.add(Gram.of(arena, x), x.extent(0));
      var sparsifier = new SparseGptSparsifier(NOfM.TWO_OF_FOUR, 0.01, _ -> moments);
      assertThat(sparsifier.prepare(List.of(layer))).isEmpty();
      sparsifier.step();
      sparsifier.squashMask();
    }
    assertThat(error(x, dense, layer.weight)).isLessThan(0.5 * error(x, dense, byMagnitude));
  }

  private static double error(Tensor x, Tensor dense, Tensor pruned) {
    int in = (int) x.extent(1);
    double error = 0;
    for (int token = 0; token < x.extent(0); token++) {
      for (int row = 0; row < dense.extent(0); row++) {
        double sum = 0;
        for (int i = 0; i < in; i++) {
          long index = (long) row * in + i;
          sum +=
              x.getFloat((long) token * in + i) * (dense.getFloat(index) - pruned.getFloat(index));
        }
        error += sum * sum;
      }
    }
    return error;
  }

  @Test
  void anInputThatIsAlwaysZeroLosesItsWeights() {
    int in = 8;
    Tensor x = correlated(40, in);
    for (int token = 0; token < 40; token++) {
      x.setFloat((long) token * in + 2, 0);
    }
    Tensor weight = gaussian(3, in);
    try (InputMoments moments = new InputMoments(in)) {
      moments.add(Gram.of(arena, x), x.extent(0));
      SparseGptSparsifier.prune(
          weight, Tensor.allocate(arena, DType.U8, 3, in), moments, NOfM.TWO_OF_FOUR, 0.01);
    }
    for (int row = 0; row < 3; row++) {
      assertThat(weight.getFloat((long) row * in + 2)).isZero();
    }
  }

  @Test
  void whatCannotBePrunedIsNamed() {
    HostLayer layer = new HostLayer(arena, "query", gaussian(2, 8));
    var uncalibrated = new SparseGptSparsifier(NOfM.TWO_OF_FOUR, 0.01, _ -> null);
    uncalibrated.prepare(List.of(layer));
    assertThatThrownBy(uncalibrated::step)
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("query: no moments of its 8 inputs");
    try (InputMoments moments = new InputMoments(8)) {
      Tensor x = gaussian(2, 8);
      moments.add(Gram.of(arena, x), x.extent(0));
      var undamped = new SparseGptSparsifier(NOfM.TWO_OF_FOUR, 0, _ -> moments);
      undamped.prepare(List.of(layer));
      // Two tokens do not determine eight inputs.
      assertThatThrownBy(undamped::step)
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("query: the calibration inputs do not determine the weights");
      x.setFloat(3, Float.NaN);
      moments.add(Gram.of(arena, x), x.extent(0));
      var broken = new SparseGptSparsifier(NOfM.TWO_OF_FOUR, 0.01, _ -> moments);
      broken.prepare(List.of(layer));
      assertThatThrownBy(broken::step)
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("NaN or infinity");
    }
  }

  private static double at(Tensor matrix, int row, int column) {
    return matrix.segment().getAtIndex(ValueLayout.JAVA_DOUBLE, row * matrix.extent(1) + column);
  }

  private static double[][] damped(InputMoments moments, double damping) {
    int in = moments.in();
    double[][] hessian = new double[in][in];
    double trace = 0;
    for (int i = 0; i < in; i++) {
      trace += moments.get(i, i);
    }
    for (int i = 0; i < in; i++) {
      for (int j = 0; j < in; j++) {
        hessian[i][j] = moments.get(i, j) + (i == j ? damping * trace / in : 0);
      }
    }
    return hessian;
  }

  private Tensor gaussian(int rows, int columns) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, rows, columns);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, (float) random.nextGaussian());
    }
    return tensor;
  }

  /** Neighbouring inputs go together, so that one can make up for the other. */
  private Tensor correlated(int rows, int columns) {
    Tensor tensor = gaussian(rows, columns);
    for (long i = 1; i < tensor.elements(); i++) {
      tensor.setFloat(i, 0.3f * tensor.getFloat(i) + 0.9f * tensor.getFloat(i - 1));
    }
    return tensor;
  }
}
