package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.MethodSource;

/** Products of pairs of rows, whatever their blocks hold, against sums in double precision. */
class PairPanelTest {
  /** A kernel for panels of so many tokens. */
  record Named(String name, SparsePanelKernel kernel, int tokens) {
    @Override
    public String toString() {
      return name + ", " + tokens + " tokens";
    }
  }

  static List<Named> kernels() {
    List<Named> all = new ArrayList<>();
    add(all, "plain loops", PanelKernels.scalar());
    if (VectorMath.LANES >= 4) {
      add(all, "compiled by the JIT", PanelKernels.compile(VectorMath.LANES));
    }
    for (int lanes = 8; lanes <= VectorMath.LANES && MachineCode.supported(); lanes *= 2) {
      add(all, "machine code", PanelKernels.best(lanes));
    }
    return all;
  }

  private static void add(List<Named> all, String name, PanelKernels kernels) {
    for (int vectors = 1; vectors <= kernels.mostVectors(); vectors++) {
      all.add(new Named(name, kernels.sparse()[vectors - 1], vectors * kernels.lanes()));
    }
  }

  @ParameterizedTest
  @MethodSource("kernels")
  void aBlockAddsItsProductsToItsRowsAlone(Named named) {
    for (int mostPasses : new int[] {1, 2, 3, 16, 21}) {
      for (int blocks : new int[] {1, 2, 5}) {
        try (Arena arena = Arena.ofConfined()) {
          Random random = new Random(mostPasses * 31L + blocks);
          Product product = new Product(arena, random, named.tokens(), mostPasses, blocks);
          product.run(named.kernel());
          product.check();
        }
      }
    }
  }

  /** Random blocks, and the sums that they make; other rows of the outputs are poisoned. */
  private static final class Product {
    private final Random random;
    private final int tokens;
    private final int blocks;
    private final MemorySegment weight;
    private final MemorySegment x;
    private final MemorySegment y;
    private final double[][] sums = new double[PairedSparseWeight.GROUP][];
    private final double[][] magnitudes = new double[PairedSparseWeight.GROUP][];

    Product(Arena arena, Random random, int tokens, int mostPasses, int blocks) {
      this.random = random;
      this.tokens = tokens;
      this.blocks = blocks;
      long block =
          PairedSparseWeight.HEAD_BYTES + (long) mostPasses * PairedSparseWeight.PASS_BYTES;
      weight = arena.allocate(blocks * block + Integer.BYTES, Integer.BYTES);
      x = arena.allocate(PairedSparseWeight.CHUNK * pitch(), 64);
      for (long i = 0; i < (long) PairedSparseWeight.CHUNK * tokens; i++) {
        x.setAtIndex(ValueLayout.JAVA_FLOAT, i, random.nextFloat(-1, 1));
      }
      // A row before the first, and one behind the last.
      y = arena.allocate((PairedSparseWeight.GROUP + 2) * pitch(), 64);
      y.fill((byte) -1);
      long at = 0;
      for (int i = 0; i < blocks; i++) {
        at = writeBlock(at, random.nextInt(1, mostPasses + 1));
      }
    }

    private long pitch() {
      return tokens * (long) Float.BYTES;
    }

    private float y(int row, int token) {
      return y.getAtIndex(ValueLayout.JAVA_FLOAT, (row + 1L) * tokens + token);
    }

    private long writeBlock(long block, int passes) {
      int[] rows =
          random
              .ints(0, PairedSparseWeight.GROUP)
              .distinct()
              .limit(PairedSparseWeight.BLOCK)
              .toArray();
      for (int i = 0; i < rows.length; i++) {
        weight.setAtIndex(ValueLayout.JAVA_SHORT, block / Short.BYTES + i, (short) rows[i]);
        begin(rows[i]);
      }
      weight.set(ValueLayout.JAVA_INT, block + PairedSparseWeight.PASSES_AT, passes);
      long at = block + PairedSparseWeight.HEAD_BYTES;
      for (int pass = 0; pass < passes; pass++) {
        for (int pair = 0; pair < PairedSparseWeight.PAIRS; pair++) {
          writePair(at, pair, rows[2 * pair], rows[2 * pair + 1]);
        }
        at += PairedSparseWeight.PASS_BYTES;
      }
      return at;
    }

    /** A row's sums may have begun in an earlier block. */
    private void begin(int row) {
      if (sums[row] != null) {
        return;
      }
      sums[row] = new double[tokens];
      magnitudes[row] = new double[tokens];
      for (int token = 0; token < tokens; token++) {
        float bias = random.nextFloat(-1, 1);
        y.setAtIndex(ValueLayout.JAVA_FLOAT, (row + 1L) * tokens + token, bias);
        sums[row][token] = bias;
        magnitudes[row][token] = Math.abs(bias);
      }
    }

    private void writePair(long pass, int pair, int first, int second) {
      int[] columns = IntStream.generate(this::column).limit(3).toArray();
      for (int i = 0; i < 3; i++) {
        long at = pass + PairedSparseWeight.COLUMNS_AT + 3L * pair + i;
        weight.set(ValueLayout.JAVA_BYTE, at, (byte) columns[i]);
      }
      writeValue(pass, 4 * pair, first, columns[0]);
      writeValue(pass, 4 * pair + 1, second, columns[0]);
      writeValue(pass, 4 * pair + 2, first, columns[1]);
      writeValue(pass, 4 * pair + 3, second, columns[2]);
    }

    private int column() {
      return random.nextInt(PairedSparseWeight.CHUNK);
    }

    private void writeValue(long pass, int place, int row, int column) {
      float value = random.nextFloat(-1, 1);
      weight.set(ValueLayout.JAVA_FLOAT, pass + place * (long) Float.BYTES, value);
      for (int token = 0; token < tokens; token++) {
        double term =
            (double) value * x.getAtIndex(ValueLayout.JAVA_FLOAT, (long) column * tokens + token);
        sums[row][token] += term;
        magnitudes[row][token] += Math.abs(term);
      }
    }

    void run(SparsePanelKernel kernel) {
      kernel.run(weight.address(), x.address(), y.address() + pitch(), blocks);
    }

    void check() {
      for (int row = -1; row <= PairedSparseWeight.GROUP; row++) {
        boolean named = row >= 0 && row < PairedSparseWeight.GROUP && sums[row] != null;
        for (int token = 0; token < tokens; token++) {
          if (named) {
            // Each of a few hundred additions rounds by half a unit of 2^-23.
            assertThat(Math.abs(y(row, token) - sums[row][token]))
                .isLessThan(2e-6 * (1 + magnitudes[row][token]));
          } else {
            assertThat(y(row, token)).isNaN();
          }
        }
      }
    }
  }

  @Test
  void aProcessorWithAvx2RunsMachineCode() {
    assumeTrue(System.getProperty("os.arch").equals("amd64") && VectorMath.LANES >= 8);
    assumeTrue(System.getProperty(MachineCode.SWITCH) == null);
    assertThat(MachineCode.obstacle()).isEmpty();
  }
}
