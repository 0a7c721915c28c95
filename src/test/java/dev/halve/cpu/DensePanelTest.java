package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.engine.Epilogue;
import dev.halve.engine.Pool;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Dense products over panels against sums in double precision, and the turning of squares. */
class DensePanelTest {
  static List<PanelKernels> kernels() {
    List<PanelKernels> all = new ArrayList<>(List.of(PanelKernels.scalar()));
    if (VectorMath.LANES >= 4) {
      all.add(PanelKernels.compile(VectorMath.LANES));
      all.add(PanelKernels.best(VectorMath.LANES));
    }
    return all;
  }

  @ParameterizedTest
  @MethodSource("kernels")
  void aPanelIsTheSumOfProducts(PanelKernels kernels) {
    for (int vectors = 1; vectors <= 8; vectors *= 2) {
      for (int rows : new int[] {1, 7, 19}) {
        for (int columns : new int[] {1, 20, 1600}) {
          check(kernels, vectors, rows, columns);
        }
      }
    }
  }

  private static void check(PanelKernels kernels, int vectors, int rows, int columns) {
    int width = vectors * kernels.lanes();
    Random random = new Random(rows + columns);
    try (Arena arena = Arena.ofConfined();
        Pool pool = new ArenaPool()) {
      Tensor weight = random(arena, random, rows, columns);
      Tensor x = random(arena, random, columns, width);
      PackedDenseWeight packed = PackedDenseWeight.pack(pool, weight, kernels.rowsTogether());
      Tensor bias = random(arena, random, packed.paddedRows());
      Tensor y = random(arena, random, packed.paddedRows(), width);
      PanelProduct.run(
          kernels,
          packed,
          x.segment().address(),
          bias.segment().address(),
          Epilogue.NONE,
          y.segment().address(),
          vectors);
      for (int row = 0; row < rows; row++) {
        for (int token = 0; token < width; token++) {
          double sum = bias.getFloat(row);
          double magnitude = Math.abs(sum);
          for (int i = 0; i < columns; i++) {
            double term =
                (double) weight.getFloat((long) row * columns + i)
                    * x.getFloat((long) i * width + token);
            sum += term;
            magnitude += Math.abs(term);
          }
          assertThat(Math.abs(y.getFloat((long) row * width + token) - sum))
              .isLessThan(2e-6 * (1 + magnitude));
        }
      }
    }
  }

  @ParameterizedTest
  @MethodSource("kernels")
  void squaresAreTurnedAboutTheirDiagonals(PanelKernels kernels) {
    int lanes = kernels.lanes();
    try (Arena arena = Arena.ofConfined()) {
      int squares = 3;
      int fromPitch = squares * lanes + 3;
      int toPitch = lanes + 1;
      Tensor from = random(arena, new Random(2), lanes, fromPitch);
      Tensor to = random(arena, new Random(3), (long) squares * lanes, toPitch);
      float[] margin = new float[squares * lanes];
      for (int i = 0; i < margin.length; i++) {
        margin[i] = to.getFloat((long) i * toPitch + lanes);
      }
      kernels
          .transpose()
          .run(
              from.segment().address(),
              fromPitch * (long) Float.BYTES,
              lanes * (long) Float.BYTES,
              to.segment().address(),
              toPitch * (long) Float.BYTES,
              (long) lanes * toPitch * Float.BYTES,
              squares);
      for (int i = 0; i < lanes; i++) {
        for (int j = 0; j < squares * lanes; j++) {
          assertThat(to.getFloat((long) j * toPitch + i))
              .isEqualTo(from.getFloat((long) i * fromPitch + j));
        }
      }
      for (int i = 0; i < margin.length; i++) {
        assertThat(to.getFloat((long) i * toPitch + lanes)).isEqualTo(margin[i]);
      }
    }
  }

  private static Tensor random(Arena arena, Random random, long... extents) {
    Tensor tensor = Tensor.allocate(arena, DType.F32, extents);
    for (long i = 0; i < tensor.elements(); i++) {
      tensor.setFloat(i, (float) random.nextGaussian());
    }
    return tensor;
  }
}
