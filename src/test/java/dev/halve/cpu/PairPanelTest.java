package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** Products of pairs of rows in machine code against sums in double precision. */
class PairPanelTest {
  private static final int COLUMNS = 64;
  private static final int GROUP = 64;
  private static final float POISON = Float.NaN;

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 4, 5, 6})
  void aBlockIsTheSumOfItsProducts(int vectors) {
    assumeTrue(MachineCode.supported(), MachineCode::obstacle);
    for (int lanes = 8; lanes <= VectorMath.LANES; lanes *= 2) {
      for (int passes : new int[] {1, 2, 3, 16, 21}) {
        for (int blocks : new int[] {1, 2, 5}) {
          check(lanes, vectors, passes, blocks);
        }
      }
    }
  }

  /** Rows that no block names must stay as they are. */
  private static void check(int lanes, int vectors, int mostPasses, int blocks) {
    int width = vectors * lanes;
    Random random = new Random(mostPasses * 31L + blocks);
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment x = arena.allocate((long) COLUMNS * width * Float.BYTES, 64);
      for (long i = 0; i < COLUMNS * width; i++) {
        x.setAtIndex(ValueLayout.JAVA_FLOAT, i, random.nextFloat(-1, 1));
      }
      MemorySegment y = arena.allocate((long) (GROUP + 2) * width * Float.BYTES, 64);
      double[] sums = new double[GROUP * width];
      double[] magnitudes = new double[GROUP * width];
      boolean[] named = new boolean[GROUP];
      for (long i = 0; i < (GROUP + 2) * width; i++) {
        y.setAtIndex(ValueLayout.JAVA_FLOAT, i, POISON);
      }
      MemorySegment weight = arena.allocate((24L + 76 * mostPasses) * blocks + 3, Integer.BYTES);
      long at = 0;
      for (int block = 0; block < blocks; block++) {
        List<Integer> rows = new ArrayList<>();
        for (int row = 0; row < GROUP; row++) {
          rows.add(row);
        }
        Collections.shuffle(rows, random);
        for (int i = 0; i < 8; i++) {
          int row = rows.get(i);
          weight.set(ValueLayout.JAVA_SHORT, at + i * 2, (short) row);
          for (int token = 0; token < width && !named[row]; token++) {
            float bias = random.nextFloat(-1, 1);
            y.setAtIndex(ValueLayout.JAVA_FLOAT, (row + 1L) * width + token, bias);
            sums[row * width + token] = bias;
            magnitudes[row * width + token] = Math.abs(bias);
          }
          named[row] = true;
        }
        int passes = random.nextInt(1, mostPasses + 1);
        weight.set(ValueLayout.JAVA_INT, at + 16, passes);
        at += 24;
        for (int pass = 0; pass < passes; pass++) {
          for (int pair = 0; pair < 4; pair++) {
            int[] columns = new int[3];
            for (int i = 0; i < 3; i++) {
              columns[i] = random.nextInt(COLUMNS);
              weight.set(ValueLayout.JAVA_BYTE, at + 64 + pair * 3 + i, (byte) columns[i]);
            }
            for (int i = 0; i < 4; i++) {
              float value = random.nextFloat(-1, 1);
              weight.set(ValueLayout.JAVA_FLOAT, at + (pair * 4 + i) * 4L, value);
              int row = rows.get(2 * pair + i % 2);
              int column = columns[Math.max(0, i - 1)];
              for (int token = 0; token < width; token++) {
                double term =
                    (double) value
                        * x.getAtIndex(ValueLayout.JAVA_FLOAT, (long) column * width + token);
                sums[row * width + token] += term;
                magnitudes[row * width + token] += Math.abs(term);
              }
            }
          }
          at += 76;
        }
      }
      PairPanelAssembler.kernel(lanes, vectors)
          .run(weight.address(), x.address(), y.address() + width * 4L, blocks);
      for (int row = -1; row <= GROUP; row++) {
        for (int token = 0; token < width; token++) {
          float found = y.getAtIndex(ValueLayout.JAVA_FLOAT, (row + 1L) * width + token);
          if (row < 0 || row == GROUP || !named[row]) {
            assertThat(found).isNaN();
          } else {
            int i = row * width + token;
            // Each of a few hundred additions rounds by half a unit of 2^-23.
            assertThat(Math.abs(found - sums[i])).isLessThan(2e-6 * (1 + magnitudes[i]));
          }
        }
      }
    }
  }

  @Test
  void aMachineOfTheRightKindRunsMachineCode() {
    assumeTrue(System.getProperty("os.arch").equals("amd64") && VectorMath.LANES >= 8);
    assumeTrue(System.getProperty(MachineCode.SWITCH) == null);
    assertThat(MachineCode.obstacle()).isEmpty();
  }
}
