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
  void aSquareIsTurnedAboutItsDiagonal(PanelKernels kernels) {
    int lanes = kernels.lanes();
    try (Arena arena = Arena.ofConfined()) {
      Tensor from = random(arena, new Random(2), lanes, lanes + 3);
      Tensor to = Tensor.allocate(arena, DType.F32, lanes, lanes + 1);
      kernels
          .transpose()
          .run(
              from.segment().address(),
              (lanes + 3) * (long) Float.BYTES,
              to.segment().address(),
              (lanes + 1) * (long) Float.BYTES);
      for (int i = 0; i < lanes; i++) {
        for (int j = 0; j < lanes; j++) {
          assertThat(to.getFloat((long) j * (lanes + 1) + i))
              .isEqualTo(from.getFloat((long) i * (lanes + 3) + j));
        }
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
