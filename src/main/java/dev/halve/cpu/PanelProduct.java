package dev.halve.cpu;

import dev.halve.engine.Epilogue;
import jdk.incubator.vector.FloatVector;

/**
 * {@code y = epilogue(weight · x + bias)} over {@link Panels}: {@code x [columns, tokens]}, {@code
 * y [rows, tokens]}. The inputs are taken a few columns at a time, which stay in the first-level
 * cache while they meet many rows, whose sums wait in the second.
 *
 * <p>A 2:4 sum begins with the bias and takes its terms in the order of the columns, so that no bit
 * depends on how tokens are cut into panels.
 */
final class PanelProduct {
  /** Of inputs that stay in the first-level cache. */
  private static final int INPUT_BYTES = VectorMath.LANES >= 16 ? 32 << 10 : 24 << 10;

  /** Of sums that stay in the second-level cache. */
  private static final int SUM_BYTES = 256 << 10;

  /** Of a dense product that are taken together: the kernels' beginnings and ends cost no less. */
  private static final int DENSE_INPUTS = 384;

  private PanelProduct() {}

  /** Rows and columns in memory: those past the last one are zeros. */
  static int padded(int features) {
    return roundUp(features, PackedSparseWeight.BLOCK);
  }

  private static int roundUp(int count, int multiple) {
    return (count + multiple - 1) / multiple * multiple;
  }

  /**
   * With a 2:4 weight, one panel on the calling thread.
   *
   * @param x {@code [padded(columns), panel]}, finite past the last column
   * @param bias {@code [padded(rows)]}
   * @param y {@code [padded(rows), panel]}
   */
  static void run(
      PanelKernels kernels,
      PackedSparseWeight weight,
      long x,
      long bias,
      Epilogue epilogue,
      long y,
      int vectors) {
    int rowBlocks = weight.rowBlocks();
    long blockBytes = (long) PackedSparseWeight.BLOCK * vectors * kernels.lanes() * Float.BYTES;
    int group = (int) Math.max(1, SUM_BYTES / blockBytes);
    for (int first = 0; first < rowBlocks; first += group) {
      int last = Math.min(rowBlocks, first + group);
      rows(kernels, weight, x, bias, epilogue, y + first * blockBytes, vectors, first, last);
    }
  }

  /** Row blocks {@code [first, last)}, whose outputs begin at {@code y}. */
  static void rows(
      PanelKernels kernels,
      PackedSparseWeight weight,
      long x,
      long bias,
      Epilogue epilogue,
      long y,
      int vectors,
      int first,
      int last) {
    int width = vectors * kernels.lanes();
    long blockBytes = (long) PackedSparseWeight.BLOCK * width * Float.BYTES;
    int columnBlocks = weight.columnBlocks();
    int together = (int) Math.max(1, INPUT_BYTES / blockBytes);
    SparsePanelKernel kernel = kernels.sparse()[PanelKernels.logarithm(vectors)];
    int rows = (last - first) * PackedSparseWeight.BLOCK;
    fill(bias + (long) first * PackedSparseWeight.BLOCK * Float.BYTES, rows, y, width);
    for (int column = 0; column < columnBlocks; column += together) {
      int blocks = Math.min(together, columnBlocks - column);
      for (int row = first; row < last; row++) {
        kernel.run(
            weight.block(row, column),
            x + column * blockBytes,
            y + (row - first) * blockBytes,
            blocks,
            PanelCompiler.PASS_BYTES);
      }
    }
    if (epilogue == Epilogue.GELU) {
      gelu(y, rows * width);
    }
  }

  /**
   * With a dense weight, one panel on the calling thread.
   *
   * @param x {@code [columns, panel]}
   * @param bias {@code [paddedRows]}
   * @param y {@code [paddedRows, panel]}
   */
  static void run(
      PanelKernels kernels,
      PackedDenseWeight weight,
      long x,
      long bias,
      Epilogue epilogue,
      long y,
      int vectors) {
    int width = vectors * kernels.lanes();
    long pitch = width * (long) Float.BYTES;
    DenseTile tile = kernels.denseTile(vectors);
    long tileBytes = (long) tile.vectors() * kernels.lanes() * Float.BYTES;
    fill(bias, weight.paddedRows(), y, width);
    for (int column = 0; column < weight.columns(); column += DENSE_INPUTS) {
      int inputs = Math.min(DENSE_INPUTS, weight.columns() - column);
      for (int row = 0; row < weight.paddedRows(); row += tile.rows()) {
        long values = weight.at(row, column);
        for (long token = 0; token < pitch; token += tileBytes) {
          long from = x + column * pitch + token;
          tile.kernel().run(values, from, y + row * pitch + token, pitch, inputs);
        }
      }
    }
    if (epilogue == Epilogue.GELU) {
      gelu(y, weight.rows() * width);
    }
  }

  private static void fill(long bias, int rows, long y, int width) {
    long at = y;
    for (int row = 0; row < rows; row++) {
      FloatVector value =
          FloatVector.broadcast(
              VectorMath.FLOATS, Memory.getFloat(bias + row * (long) Float.BYTES));
      for (int i = 0; i < width; i += VectorMath.LANES) {
        Memory.setVector(at, value);
        at += VectorMath.LANES * (long) Float.BYTES;
      }
    }
  }

  private static void gelu(long y, int count) {
    for (int i = 0; i < count; i += VectorMath.LANES) {
      long at = y + i * (long) Float.BYTES;
      Memory.setVector(at, VectorMath.gelu(Memory.vector(at)));
    }
  }
}
