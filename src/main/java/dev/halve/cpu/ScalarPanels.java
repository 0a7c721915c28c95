package dev.halve.cpu;

/**
 * The kernels that {@link PanelCompiler} writes as plain loops: what they are tested against, and
 * what runs where the JVM has no vectors of at least four floats.
 */
final class ScalarPanels {
  private ScalarPanels() {}

  /** For panels of so many tokens. */
  static SparsePanelKernel sparse(int tokens) {
    long pitch = tokens * (long) Float.BYTES;
    return (weight, x, y, blocks) -> {
      long at = weight;
      for (int block = 0; block < blocks; block++) {
        long head = at;
        int passes = Memory.getInt(head + PairedSparseWeight.PASSES_AT);
        at += PairedSparseWeight.HEAD_BYTES;
        for (int pass = 0; pass < passes; pass++) {
          for (int pair = 0; pair < PairedSparseWeight.PAIRS; pair++) {
            long values = at + pair * (long) PairedSparseWeight.VALUES_BYTES;
            int rows = Memory.getInt(head + pair * 2L * Short.BYTES);
            long first = y + (rows & 0xFFFF) * pitch;
            long second = y + (rows >>> 16) * pitch;
            int columns =
                Memory.getInt(
                    at
                        + PairedSparseWeight.COLUMNS_AT
                        + (long) pair * PairedSparseWeight.COLUMNS_BYTES);
            long common = x + (columns & 0xFF) * pitch;
            add(Memory.getFloat(values), common, first, tokens);
            add(Memory.getFloat(values + 4), common, second, tokens);
            add(Memory.getFloat(values + 8), x + (columns >>> 8 & 0xFF) * pitch, first, tokens);
            add(Memory.getFloat(values + 12), x + (columns >>> 16 & 0xFF) * pitch, second, tokens);
          }
          at += PairedSparseWeight.PASS_BYTES;
        }
      }
    };
  }

  /** For tiles of so many tokens and rows. */
  static DensePanelKernel dense(int tokens, int rows) {
    return (a, aRowPitch, aStep, b, bPitch, c, cPitch, steps) -> {
      for (int row = 0; row < rows; row++) {
        long to = c + row * cPitch;
        Memory.zero(to, tokens * (long) Float.BYTES);
        for (int step = 0; step < steps; step++) {
          float value = Memory.getFloat(a + row * aRowPitch + step * aStep);
          add(value, b + step * bPitch, to, tokens);
        }
      }
    };
  }

  /** For tiles of so many tokens and rows, of a weight that has {@code together} of them. */
  static DenseTile.Kernel denseTile(int tokens, int rows, int together) {
    return (weight, x, y, pitch, inputs) -> {
      for (int row = 0; row < rows; row++) {
        for (int input = 0; input < inputs; input++) {
          float value = Memory.getFloat(weight + (input * together + row) * (long) Float.BYTES);
          add(value, x + input * pitch, y + row * pitch, tokens);
        }
      }
    };
  }

  private static void add(float factor, long from, long to, int count) {
    for (int i = 0; i < count; i++) {
      long at = i * (long) Float.BYTES;
      Memory.setFloat(
          to + at, Math.fma(factor, Memory.getFloat(from + at), Memory.getFloat(to + at)));
    }
  }

  static TransposeKernel.Square transpose(int lanes) {
    return (from, fromPitch, to, toPitch) -> {
      for (int row = 0; row < lanes; row++) {
        for (int column = 0; column < lanes; column++) {
          Memory.setFloat(
              to + column * toPitch + row * (long) Float.BYTES,
              Memory.getFloat(from + row * fromPitch + column * (long) Float.BYTES));
        }
      }
    };
  }
}
