package dev.halve.cpu;

/**
 * The kernels that {@link TileCompiler} writes as plain loops: what they are tested against, and
 * what runs where the JVM has no vectors of at least four floats.
 */
final class ScalarTiles {
  private ScalarTiles() {}

  /** {@code tokens} by one row block of {@link TiledSparseWeight}. */
  static TileKernel sparse(int tokens) {
    return (weight, weightPitch, x, xPitch, bias, y, yPitch, steps) -> {
      for (int token = 0; token < tokens; token++) {
        for (int row = 0; row < TiledSparseWeight.BLOCK; row++) {
          float sum = Memory.getFloat(bias + row * (long) Float.BYTES);
          for (int step = 0; step < steps; step++) {
            long block = weight + step * weightPitch;
            long inputs = x + token * xPitch + step * (long) TiledSparseWeight.BLOCK * Float.BYTES;
            int indices = Memory.getInt(block + row * (long) Integer.BYTES);
            for (int n = 0; n < TiledSparseWeight.NONZEROS; n++) {
              int column = indices >>> TiledSparseWeight.INDEX_BITS * n & 0xF;
              float value = Memory.getFloat(block + TiledSparseWeight.valueOffset(n, row));
              sum = Math.fma(Memory.getFloat(inputs + column * (long) Float.BYTES), value, sum);
            }
          }
          Memory.setFloat(y + token * yPitch + row * (long) Float.BYTES, sum);
        }
      }
    };
  }
}
