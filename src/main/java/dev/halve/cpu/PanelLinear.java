package dev.halve.cpu;

import dev.halve.core.Tensor;
import dev.halve.engine.Epilogue;

/**
 * {@link PanelProduct} for row-major activations: a panel's tokens are turned about before the
 * product and after it. One part of the work, on one thread.
 */
final class PanelLinear {
  /** Outputs that are turned back while they are in the second-level cache. */
  private static final int GROUP_BYTES = 128 << 10;

  private final PanelKernels kernels;
  private final PackedSparseWeight weight;
  private final int width;
  private final int groupRows;
  private final long panelX;
  private final long panelBias;
  private final long panelY;
  private final long square;

  private PanelLinear(
      PanelKernels kernels, PackedSparseWeight weight, int vectors, Scratch scratch) {
    this.kernels = kernels;
    this.weight = weight;
    this.width = vectors * kernels.lanes();
    int columns = PanelProduct.padded(weight.columns());
    int rows = PanelProduct.padded(weight.rows());
    this.groupRows = Math.min(rows, PanelProduct.padded(GROUP_BYTES / (width * Float.BYTES)));
    int lanes = kernels.lanes();
    long floats = (long) width * (columns + groupRows) + rows + (long) lanes * lanes;
    this.panelX = scratch.floats(floats).address();
    this.panelY = panelX + (long) width * columns * Float.BYTES;
    this.panelBias = panelY + (long) width * groupRows * Float.BYTES;
    this.square = panelBias + rows * (long) Float.BYTES;
  }

  /**
   * Columns {@code [column, column + rows)} of {@code y} on a team.
   *
   * @param x {@code [tokens, columns]}
   * @param bias {@code [rows]}
   * @param y {@code [tokens, width]}
   */
  static void run(
      ThreadTeam team,
      Scratch[] scratch,
      PanelKernels kernels,
      PackedSparseWeight weight,
      Tensor x,
      Tensor bias,
      Epilogue epilogue,
      Tensor y,
      int column) {
    int tokens = (int) x.extent(0);
    // Where a widest panel each would be too many tokens, members share a panel's rows: each turns
    // it about for itself, which costs less than narrower panels.
    boolean few = tokens <= Panels.MOST_VECTORS * kernels.lanes() * (team.size() - 1);
    int shares = few ? Math.min(team.size(), weight.rowBlocks()) : 1;
    Panels panels = new Panels(kernels.lanes(), tokens, few ? 1 : team.size());
    panels.cut(tokens);
    long xPitch = x.extent(1) * Float.BYTES;
    long yPitch = y.extent(1) * Float.BYTES;
    team.run(
        panels.count() * shares,
        (share, member) -> {
          int panel = share / shares;
          int vectors = panels.vectors(panel);
          int first = panels.firstToken(panel);
          PanelLinear part = new PanelLinear(kernels, weight, vectors, scratch[member]);
          part.take(x.segment().address() + first * xPitch, xPitch, panels.tokens(panel));
          long to = y.segment().address() + first * yPitch + column * (long) Float.BYTES;
          int rowBlocks = weight.rowBlocks();
          part.multiply(
              rowBlocks * (share % shares) / shares,
              rowBlocks * (share % shares + 1) / shares,
              bias.segment().address(),
              epilogue,
              vectors,
              to,
              yPitch,
              panels.tokens(panel));
        });
  }

  /** Turns {@code x} into the panel; what is past its last token or column is zero. */
  private void take(long x, long pitch, int tokens) {
    int lanes = kernels.lanes();
    int columns = weight.columns();
    long panelPitch = width * (long) Float.BYTES;
    long squarePitch = lanes * (long) Float.BYTES;
    for (int token = 0; token < width; token += lanes) {
      int count = Math.clamp(tokens - token, 0, lanes);
      for (int feature = 0; feature < PanelProduct.padded(columns); feature += lanes) {
        int features = Math.clamp(columns - feature, 0, lanes);
        long from = x + token * pitch + feature * (long) Float.BYTES;
        long to = panelX + feature * panelPitch + token * (long) Float.BYTES;
        if (count == lanes && features == lanes) {
          kernels.transpose().run(from, pitch, to, panelPitch);
        } else {
          Memory.zero(square, lanes * squarePitch);
          for (int row = 0; row < count && features > 0; row++) {
            Memory.copy(
                from + row * pitch, square + row * squarePitch, features * (long) Float.BYTES);
          }
          kernels.transpose().run(square, squarePitch, to, panelPitch);
        }
      }
    }
  }

  /** Row blocks {@code [from, to)}. */
  private void multiply(
      int from, int to, long bias, Epilogue epilogue, int vectors, long y, long pitch, int tokens) {
    Memory.copy(bias, panelBias, weight.rows() * (long) Float.BYTES);
    int blocks = groupRows / PackedSparseWeight.BLOCK;
    for (int first = from; first < to; first += blocks) {
      int last = Math.min(to, first + blocks);
      PanelProduct.rows(kernels, weight, panelX, panelBias, epilogue, panelY, vectors, first, last);
      int row = first * PackedSparseWeight.BLOCK;
      int rows = Math.min(weight.rows(), last * PackedSparseWeight.BLOCK) - row;
      give(rows, y + row * (long) Float.BYTES, pitch, tokens);
    }
  }

  /** Turns the panel's first rows back, into {@code y}. */
  private void give(int rows, long y, long pitch, int tokens) {
    int lanes = kernels.lanes();
    long panelPitch = width * (long) Float.BYTES;
    long squarePitch = lanes * (long) Float.BYTES;
    for (int token = 0; token < tokens; token += lanes) {
      int count = Math.min(tokens - token, lanes);
      for (int row = 0; row < rows; row += lanes) {
        int features = Math.min(rows - row, lanes);
        long from = panelY + row * panelPitch + token * (long) Float.BYTES;
        long to = y + token * pitch + row * (long) Float.BYTES;
        if (count == lanes && features == lanes) {
          kernels.transpose().run(from, panelPitch, to, pitch);
        } else {
          kernels.transpose().run(from, panelPitch, square, squarePitch);
          for (int i = 0; i < count; i++) {
            Memory.copy(square + i * squarePitch, to + i * pitch, features * (long) Float.BYTES);
          }
        }
      }
    }
  }
}
