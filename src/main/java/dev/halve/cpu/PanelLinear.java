package dev.halve.cpu;

import dev.halve.core.Tensor;
import dev.halve.engine.Epilogue;

/**
 * {@link PanelProduct} for row-major activations: a panel's tokens are turned about before the
 * product and after it, outputs while they are in the second-level cache. One part of the work, on
 * one thread.
 */
final class PanelLinear {
  private final PanelKernels kernels;
  private final PairedSparseWeight weight;
  private final int vectors;
  private final int width;
  private final int groups;
  private final long panelX;
  private final long xPitch;
  private final long panelBias;
  private final long panelY;
  private final long yPitch;
  private final long square;

  /** For so many panels of so many vectors. */
  private PanelLinear(
      PanelKernels kernels, PairedSparseWeight weight, int vectors, int panels, Scratch scratch) {
    this.kernels = kernels;
    this.weight = weight;
    this.vectors = vectors;
    this.width = vectors * kernels.lanes();
    // A panel alone has half as many sums: what is turned back goes through the cache as well.
    int groups = PanelProduct.groups(width, Math.max(2, panels));
    this.groups = Math.min(weight.groups(), groups);
    int columns = PanelProduct.padded(weight.columns());
    int rows = PanelProduct.padded(weight.rows());
    int lanes = kernels.lanes();
    this.xPitch = (long) width * columns * Float.BYTES;
    this.yPitch = (long) width * this.groups * PairedSparseWeight.GROUP * Float.BYTES;
    long floats = panels * (xPitch + yPitch) / Float.BYTES + rows + (long) lanes * lanes;
    this.panelX = scratch.floats(floats).address();
    this.panelY = panelX + panels * xPitch;
    this.panelBias = panelY + panels * yPitch;
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
      PairedSparseWeight weight,
      Tensor x,
      Tensor bias,
      Epilogue epilogue,
      Tensor y,
      int column) {
    int tokens = (int) x.extent(0);
    // Where a widest panel each would be too many tokens, members share a panel's rows: each turns
    // it about for itself, which costs less than narrower panels.
    boolean few = tokens <= kernels.mostVectors() * kernels.lanes() * (team.size() - 1);
    int shares = few ? Math.min(team.size(), weight.groups()) : 1;
    int together = PanelProduct.together(kernels, weight.rows() + weight.columns());
    Panels panels =
        new Panels(
            kernels.lanes(),
            tokens,
            few ? 1 : team.size(),
            kernels.mostVectors(),
            few ? 1 : together);
    panels.cut(tokens);
    team.run(
        panels.groups() * shares,
        (part, member) -> {
          int group = part / shares;
          int share = part % shares;
          int first = panels.firstPanel(group);
          int count = panels.panels(group);
          int vectors = panels.vectors(first);
          PanelLinear linear = new PanelLinear(kernels, weight, vectors, count, scratch[member]);
          linear.take(x, panels, first, count);
          linear.multiply(
              panels,
              first,
              count,
              weight.groups() * share / shares,
              weight.groups() * (share + 1) / shares,
              bias,
              epilogue,
              y,
              column);
        });
  }

  private void take(Tensor x, Panels panels, int first, int count) {
    long pitch = x.extent(1) * Float.BYTES;
    for (int i = 0; i < count; i++) {
      long from = x.segment().address() + panels.firstToken(first + i) * pitch;
      take(from, pitch, panels.tokens(first + i), panelX + i * xPitch);
    }
  }

  /** Turns {@code x} into a panel; what is past its last token or column is zero. */
  private void take(long x, long pitch, int tokens, long panel) {
    int lanes = kernels.lanes();
    int columns = weight.columns();
    long panelPitch = width * (long) Float.BYTES;
    long squarePitch = lanes * (long) Float.BYTES;
    for (int token = 0; token < width; token += lanes) {
      int count = Math.clamp(tokens - token, 0, lanes);
      int whole = count == lanes ? columns / lanes : 0;
      if (whole > 0) {
        long from = x + token * pitch;
        long to = panel + token * (long) Float.BYTES;
        kernels
            .transpose()
            .run(from, pitch, squarePitch, to, panelPitch, lanes * panelPitch, whole);
      }
      for (int feature = whole * lanes; feature < PanelProduct.padded(columns); feature += lanes) {
        int features = Math.clamp(columns - feature, 0, lanes);
        long from = x + token * pitch + feature * (long) Float.BYTES;
        long to = panel + feature * panelPitch + token * (long) Float.BYTES;
        Memory.zero(square, lanes * squarePitch);
        for (int row = 0; row < count && features > 0; row++) {
          Memory.copy(
              from + row * pitch, square + row * squarePitch, features * (long) Float.BYTES);
        }
        kernels.transpose().run(square, squarePitch, to, panelPitch);
      }
    }
  }

  /** Row blocks {@code [from, to)}. */
  private void multiply(
      Panels panels,
      int firstPanel,
      int count,
      int from,
      int to,
      Tensor bias,
      Epilogue epilogue,
      Tensor y,
      int column) {
    Memory.copy(bias.segment().address(), panelBias, weight.rows() * (long) Float.BYTES);
    long pitch = y.extent(1) * Float.BYTES;
    for (int first = from; first < to; first += groups) {
      int last = Math.min(to, first + groups);
      PanelProduct.rows(
          kernels, weight, panelX, xPitch, panelBias, epilogue, panelY, yPitch, vectors, count,
          first, last);
      int row = first * PairedSparseWeight.GROUP;
      int rows = Math.min(weight.rows(), last * PairedSparseWeight.GROUP) - row;
      long rowAt = y.segment().address() + (column + row) * (long) Float.BYTES;
      for (int i = 0; i < count; i++) {
        int panel = firstPanel + i;
        long at = rowAt + panels.firstToken(panel) * pitch;
        give(panelY + i * yPitch, rows, at, pitch, panels.tokens(panel));
      }
    }
  }

  /** Turns a panel's first rows back, into {@code y}. */
  private void give(long panel, int rows, long y, long pitch, int tokens) {
    int lanes = kernels.lanes();
    long panelPitch = width * (long) Float.BYTES;
    long squarePitch = lanes * (long) Float.BYTES;
    for (int token = 0; token < tokens; token += lanes) {
      int count = Math.min(tokens - token, lanes);
      int whole = count == lanes ? rows / lanes : 0;
      if (whole > 0) {
        long from = panel + token * (long) Float.BYTES;
        long to = y + token * pitch;
        kernels
            .transpose()
            .run(from, panelPitch, lanes * panelPitch, to, pitch, squarePitch, whole);
      }
      for (int row = whole * lanes; row < rows; row += lanes) {
        int features = Math.min(rows - row, lanes);
        long from = panel + row * panelPitch + token * (long) Float.BYTES;
        long to = y + token * pitch + row * (long) Float.BYTES;
        kernels.transpose().run(from, panelPitch, square, squarePitch);
        for (int i = 0; i < count; i++) {
          Memory.copy(square + i * squarePitch, to + i * pitch, features * (long) Float.BYTES);
        }
      }
    }
  }
}
