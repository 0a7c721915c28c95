package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import java.util.Random;
import org.junit.jupiter.api.Test;

/** Attention over panels against the formula in double precision. */
class PanelAttentionTest {
  private static final int[] LENGTHS = {1, 3, 128, 7, 129, 50, 300};

  private final PanelKernels kernels = CpuKernels.best().panels();
  private final Random random = new Random(5);

  @Test
  void attentionIsTheWeightedMeanOfTheValues() {
    for (int headSize : new int[] {4, 18, 32, 64}) {
      check(headSize, false);
    }
  }

  /** Each block of keys raises the greatest score, or none after the first does. */
  @Test
  void aGreatestScoreMayComeLateOrEarly() {
    check(32, true);
  }

  /** The same without a test framework, for a JVM of another vector width. */
  static void checkAll() {
    PanelAttentionTest test = new PanelAttentionTest();
    test.attentionIsTheWeightedMeanOfTheValues();
    test.aGreatestScoreMayComeLateOrEarly();
  }

  private void check(int headSize, boolean steep) {
    int tokens = 0;
    for (int length : LENGTHS) {
      tokens += length;
    }
    int lanes = kernels.lanes();
    int inputs = 3 * headSize + 2;
    int outputs = headSize + 3;
    Panels panels = new Panels(lanes, tokens, 2, 6, 1);
    panels.cut(tokens);
    try (ArenaPool pool = new ArenaPool()) {
      long qkv = panels(pool, tokens, inputs);
      long out = panels(pool, tokens, outputs);
      for (int token = 0; token < tokens; token++) {
        for (int feature = 0; feature < inputs; feature++) {
          float growth = steep && feature < 2 * headSize + 1 ? token * 0.01f : 1;
          float value = (float) random.nextGaussian() * growth;
          Memory.setFloat(at(panels, qkv, token, inputs, feature), value);
        }
        for (int feature = 0; feature < outputs; feature++) {
          Memory.setFloat(at(panels, out, token, outputs, feature), Float.NaN);
        }
      }
      long memory =
          pool.allocate(DType.U8, PanelAttention.bytes(kernels, headSize, 300)).segment().address();
      PanelAttention attention = new PanelAttention(kernels, headSize, 300, memory);
      int first = 0;
      for (int length : LENGTHS) {
        attention.run(panels, first, length, qkv, inputs, 1, headSize, out, outputs, 2);
        compare(panels, first, length, headSize, qkv, out);
        first += length;
      }
      for (int token = 0; token < tokens; token++) {
        assertThat(Memory.getFloat(at(panels, out, token, outputs, 1))).isNaN();
        assertThat(Memory.getFloat(at(panels, out, token, outputs, headSize + 2))).isNaN();
      }
    }
  }

  private long panels(ArenaPool pool, int tokens, int features) {
    long padded = tokens + 2L * kernels.lanes();
    return pool.allocate(DType.F32, padded, features).segment().address();
  }

  private static long at(Panels panels, long memory, int token, int features, int feature) {
    int panel = panels.panelOf(token);
    return memory
        + panels.offset(panel, features)
        + feature * panels.pitch(panel)
        + (token - panels.firstToken(panel)) * (long) Float.BYTES;
  }

  private static void compare(
      Panels panels, int first, int length, int headSize, long qkv, long out) {
    int inputs = 3 * headSize + 2;
    for (int query = first; query < first + length; query++) {
      double[] scores = new double[length];
      double greatest = Double.NEGATIVE_INFINITY;
      double size = 0;
      for (int key = 0; key < length; key++) {
        double magnitude = 0;
        for (int i = 0; i < headSize; i++) {
          double q = Memory.getFloat(at(panels, qkv, query, inputs, 1 + i));
          double k = Memory.getFloat(at(panels, qkv, first + key, inputs, 1 + headSize + i));
          scores[key] += q * k / Math.sqrt(headSize);
          magnitude += Math.abs(q * k) / Math.sqrt(headSize);
        }
        greatest = Math.max(greatest, scores[key]);
        size = Math.max(size, magnitude);
      }
      double sum = 0;
      for (int key = 0; key < length; key++) {
        scores[key] = Math.exp(scores[key] - greatest);
        sum += scores[key];
      }
      for (int i = 0; i < headSize; i++) {
        double expected = 0;
        double magnitude = 0;
        for (int key = 0; key < length; key++) {
          double v = Memory.getFloat(at(panels, qkv, first + key, inputs, 1 + 2 * headSize + i));
          expected += scores[key] / sum * v;
          magnitude += scores[key] / sum * Math.abs(v);
        }
        double found = Memory.getFloat(at(panels, out, query, headSize + 3, 2 + i));
        // A score's own rounding is relative to its terms, and becomes that of its exponential.
        assertThat(Math.abs(found - expected))
            .as("token %s of row %s, head size %s", query - first, length, headSize)
            .isLessThan(1e-6 * magnitude * (1 + size / 4) + 1e-30);
      }
    }
  }
}
