package dev.halve.cpu;

import dev.halve.engine.Epilogue;
import jdk.incubator.vector.FloatVector;

/**
 * {@code y = epilogue(weight · x + bias)} over {@link Panels}: {@code x [columns, tokens]}, {@code
 * y [rows, tokens]}. The inputs are taken a few columns at a time, which stay in the first-level
 * cache while they meet many rows, whose sums wait in the second.
 *
 * <p>A panel reads a whole weight, at 2.42 bytes an element. Where weight and activations are past
 * the second-level cache, {@code p} panels of {@code w} bytes a feature take turns at each few
 * columns, so that the weight is read once for them all; but the rows whose sums fit beside one
 * another are fewer then, and inputs are read again for each such group. A panel thus reads {@code
 * 2.42 / p + w * p * w / SUM_BYTES} bytes for each element of the weight: with AVX2 ({@code w} of
 * 192) 2.6, 1.5, 1.2 and 1.2 for one to four panels, with AVX-512 3.0, 2.3 and 2.5 for one to
 * three, whose turns have not been timed.
 *
 * <p>A 2:4 sum begins with the bias and takes its terms in an order that is the weight's alone, so
 * that no bit depends on how tokens are cut into panels, nor on how many take turns.
 */
final class PanelProduct {
  /** Of sums that stay in the second-level cache. */
  private static final int SUM_BYTES = 256 << 10;

  /** Of a panel's inputs and outputs that the second-level cache holds, so that both stay. */
  private static final int PANEL_BYTES = 512 << 10;

  /** Panels that take turns. */
  private static final int TURNS = VectorMath.LANES >= 16 ? 1 : 4;

  /** Of a dense product that are taken together: the kernels' beginnings and ends cost no less. */
  private static final int DENSE_INPUTS = 384;

  /** The same of a panel as wide as a tile, whose inputs lie one after another. */
  private static final int NARROW_INPUTS = 1536;

  private static final long LINE_BYTES = 64;

  /**
   * Of {@link #fetch}: written, and by others readable, so that no compiler leaves its reading out.
   */
  static int fetched;

  private PanelProduct() {}

  /** Widest panels that are best taken together by products of so many features in all. */
  static int together(PanelKernels kernels, int features) {
    long bytes = (long) features * kernels.mostVectors() * kernels.lanes() * Float.BYTES;
    return bytes <= PANEL_BYTES ? 1 : TURNS;
  }

  /** Groups of rows whose sums stay in the second-level cache for so many panels. */
  static int groups(int width, int panels) {
    return Math.max(1, SUM_BYTES / (PairedSparseWeight.GROUP * width * Float.BYTES * panels));
  }

  /** Rows and columns in memory: those past the last one are zeros. */
  static int padded(int features) {
    return Math.ceilDiv(features, TiledSparseWeight.BLOCK) * TiledSparseWeight.BLOCK;
  }

  /**
   * With a 2:4 weight, some panels on the calling thread.
   *
   * @param x {@code [padded(columns), panel]} of the first panel, finite past the last column
   * @param xPitch bytes from one panel to the next
   * @param bias {@code [padded(rows)]}
   * @param y {@code [padded(rows), panel]} of the first panel
   * @param yPitch bytes from one panel to the next
   * @param vectors of each panel
   */
  static void run(
      PanelKernels kernels,
      PairedSparseWeight weight,
      long x,
      long xPitch,
      long bias,
      Epilogue epilogue,
      long y,
      long yPitch,
      int vectors,
      int panels) {
    int width = vectors * kernels.lanes();
    int most = together(kernels, weight.rows() + weight.columns());
    for (int panel = 0; panel < panels; panel += most) {
      int count = Math.min(most, panels - panel);
      int groups = groups(width, count);
      for (int first = 0; first < weight.groups(); first += groups) {
        rows(
            kernels,
            weight,
            x + panel * xPitch,
            xPitch,
            bias,
            epilogue,
            y + panel * yPitch + (long) first * PairedSparseWeight.GROUP * width * Float.BYTES,
            yPitch,
            vectors,
            count,
            first,
            Math.min(weight.groups(), first + groups));
      }
    }
  }

  /** Groups of rows {@code [first, last)}, whose outputs in the first panel begin at {@code y}. */
  static void rows(
      PanelKernels kernels,
      PairedSparseWeight weight,
      long x,
      long xPitch,
      long bias,
      Epilogue epilogue,
      long y,
      long yPitch,
      int vectors,
      int panels,
      int first,
      int last) {
    int width = vectors * kernels.lanes();
    long pitch = width * (long) Float.BYTES;
    SparsePanelKernel kernel = kernels.sparse()[vectors - 1];
    int firstRow = first * PairedSparseWeight.GROUP;
    int rows = Math.min(padded(weight.rows()), last * PairedSparseWeight.GROUP) - firstRow;
    for (int panel = 0; panel < panels; panel++) {
      fill(bias + firstRow * (long) Float.BYTES, rows, y + panel * yPitch, width);
    }
    for (int chunk = 0; chunk < weight.chunks(); chunk++) {
      int column = chunk * PairedSparseWeight.CHUNK;
      int inputs = Math.min(PairedSparseWeight.CHUNK, weight.columns() - column);
      for (int panel = 0; panel < panels; panel++) {
        long at = x + panel * xPitch + column * pitch;
        if (panels > 1) {
          fetch(at, inputs * pitch);
        }
        for (int group = first; group < last; group++) {
          long row = (group - first) * (long) PairedSparseWeight.GROUP;
          kernel.run(
              weight.block(group, chunk),
              at,
              y + panel * yPitch + row * pitch,
              weight.blocks(group));
        }
      }
    }
    if (epilogue == Epilogue.GELU) {
      for (int panel = 0; panel < panels; panel++) {
        gelu(y + panel * yPitch, rows * width);
      }
    }
  }

  /** Reads in order what kernels will read at random, which processors see coming less well. */
  private static void fetch(long from, long bytes) {
    int sum = 0;
    for (long at = from; at < from + bytes; at += LINE_BYTES) {
      sum += Memory.getInt(at);
    }
    fetched = sum;
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
    fill(bias, weight.paddedRows(), y, width);
    int together = kernels.denseTile(vectors).vectors() == vectors ? NARROW_INPUTS : DENSE_INPUTS;
    for (int column = 0; column < weight.columns(); column += together) {
      int inputs = Math.min(together, weight.columns() - column);
      for (int row = 0; row < weight.paddedRows(); row += weight.together()) {
        int vector = 0;
        while (vector < vectors) {
          DenseTile tile = kernels.denseTile(vectors - vector);
          long token = (long) vector * kernels.lanes() * Float.BYTES;
          for (int r = row; r < row + weight.together(); r += tile.rows()) {
            long from = x + column * pitch + token;
            tile.kernel().run(weight.at(r, column), from, y + r * pitch + token, pitch, inputs);
          }
          vector += tile.vectors();
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
