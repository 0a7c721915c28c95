package dev.halve.cpu;

import dev.halve.core.Tensor;
import dev.halve.engine.Epilogue;
import jdk.incubator.vector.FloatVector;

/**
 * {@code y = epilogue(x · weightᵀ + bias)} for row-major {@code x [tokens, columns]} and {@code y
 * [tokens, rows]}, tile by tile: a group of row blocks that fits the second-level cache meets all
 * tokens before the next group does.
 *
 * <p>How sums are ordered depends on the token's place in {@code x} alone, not on how the work is
 * split, as long as splits fall on multiples of {@link TileKernels#mostTokens}.
 */
final class TiledProduct {
  private static final long GROUP_BYTES = 256 << 10;

  /** Of a weight that members read in a few microseconds. */
  private static final long SMALL_BYTES = 1 << 20;

  /** Tokens of one part of a product that is shared out, at least. */
  private static final int PART_TOKENS = 96;

  /** Of a tile's outputs for one token. */
  private static final long ROW_BYTES = TiledSparseWeight.BLOCK * (long) Float.BYTES;

  private TiledProduct() {}

  /**
   * Columns {@code [column, column + rows)} of {@code y} on a team.
   *
   * @param x {@code [tokens, columns]}
   * @param bias {@code [rows]}
   * @param y {@code [tokens, width]}
   */
  static void run(
      ThreadTeam team,
      TileKernels kernels,
      TiledSparseWeight weight,
      Tensor x,
      Tensor bias,
      Epilogue epilogue,
      Tensor y,
      int column) {
    int tokens = (int) x.extent(0);
    int tile = kernels.mostTokens();
    int partTokens = (PART_TOKENS + tile - 1) / tile * tile;
    int tokenParts = (tokens + partTokens - 1) / partTokens;
    // A few parts for each member even out their speeds; a small tile is over too soon for that.
    boolean small = tokens <= tile && weight.rowBlocks() * weight.rowBlockBytes() < SMALL_BYTES;
    int wanted = small ? team.size() : 3 * team.size();
    int rowParts = Math.min(weight.rowBlocks(), (wanted + tokenParts - 1) / tokenParts);
    long xPitch = x.extent(1) * Float.BYTES;
    long yPitch = y.extent(1) * Float.BYTES;
    team.run(
        tokenParts * rowParts,
        (part, member) -> {
          int token = part / rowParts * partTokens;
          int rowPart = part % rowParts;
          run(
              kernels,
              weight,
              weight.rowBlocks() * rowPart / rowParts,
              weight.rowBlocks() * (rowPart + 1) / rowParts,
              x.segment().address() + token * xPitch,
              xPitch,
              Math.min(partTokens, tokens - token),
              bias.segment().address(),
              epilogue,
              y.segment().address() + token * yPitch + column * (long) Float.BYTES,
              yPitch,
              team.scratch(member));
        });
  }

  /**
   * The tokens {@code [0, tokens)} and row blocks {@code [firstBlock, lastBlock)} of a product, on
   * the calling thread. Addresses are those of token 0 and row 0; pitches are in bytes.
   *
   * @param bias address of {@code [rows]} floats
   * @param scratch address of {@link ThreadTeam#SCRATCH_BYTES}
   */
  static void run(
      TileKernels kernels,
      TiledSparseWeight weight,
      int firstBlock,
      int lastBlock,
      long x,
      long xPitch,
      int tokens,
      long bias,
      Epilogue epilogue,
      long y,
      long yPitch,
      long scratch) {
    int steps = weight.columns() / TiledSparseWeight.BLOCK;
    boolean ragged = weight.columns() % TiledSparseWeight.BLOCK != 0;
    int wholeBlocks = ragged ? 0 : weight.rows() / TiledSparseWeight.BLOCK;
    int group = groupBlocks(weight);
    for (int from = firstBlock; from < lastBlock; from += group) {
      int to = Math.min(lastBlock, from + group);
      for (int token = 0, chosen; token < tokens; token += kernels.tokens()[chosen]) {
        chosen = kernels.next(tokens - token);
        TileKernel kernel = kernels.kernels()[chosen];
        long tileX = x + token * xPitch;
        long tileY = y + token * yPitch;
        for (int block = from; block < to; block++) {
          long column = block * ROW_BYTES;
          if (block < wholeBlocks) {
            kernel.run(
                weight.block(block, 0),
                TiledSparseWeight.BLOCK_BYTES,
                tileX,
                xPitch,
                bias + column,
                tileY + column,
                yPitch,
                steps);
          } else {
            edge(
                weight,
                kernel,
                kernels.tokens()[chosen],
                block,
                tileX,
                xPitch,
                bias,
                tileY,
                yPitch,
                scratch);
          }
        }
        if (epilogue == Epilogue.GELU) {
          int firstRow = from * TiledSparseWeight.BLOCK;
          int lastRow = Math.min(weight.rows(), to * TiledSparseWeight.BLOCK);
          gelu(tileY, yPitch, kernels.tokens()[chosen], firstRow, lastRow);
        }
      }
    }
  }

  private static int groupBlocks(TiledSparseWeight weight) {
    return (int) Math.max(1, GROUP_BYTES / weight.rowBlockBytes());
  }

  /** A tile at the last rows, or of a weight whose columns do not fill its last step. */
  private static void edge(
      TiledSparseWeight weight,
      TileKernel kernel,
      int tokens,
      int block,
      long x,
      long xPitch,
      long bias,
      long y,
      long yPitch,
      long scratch) {
    int firstRow = block * TiledSparseWeight.BLOCK;
    long rowBytes = Math.min(ROW_BYTES, (weight.rows() - firstRow) * (long) Float.BYTES);
    long edgeBias = scratch;
    long sums = edgeBias + ROW_BYTES;
    Memory.copy(bias + firstRow * (long) Float.BYTES, edgeBias, rowBytes);
    int steps = weight.columns() / TiledSparseWeight.BLOCK;
    kernel.run(
        weight.block(block, 0),
        TiledSparseWeight.BLOCK_BYTES,
        x,
        xPitch,
        edgeBias,
        sums,
        ROW_BYTES,
        steps);
    int left = weight.columns() % TiledSparseWeight.BLOCK;
    if (left > 0) {
      long more = sums + tokens * ROW_BYTES;
      long inputs = more + tokens * ROW_BYTES;
      long stepBytes = TiledSparseWeight.BLOCK * (long) Float.BYTES;
      Memory.zero(inputs, tokens * stepBytes);
      for (int token = 0; token < tokens; token++) {
        Memory.copy(
            x + token * xPitch + steps * stepBytes,
            inputs + token * stepBytes,
            left * (long) Float.BYTES);
      }
      Memory.zero(edgeBias, ROW_BYTES);
      long lastStep = weight.block(block, steps);
      kernel.run(
          lastStep, TiledSparseWeight.BLOCK_BYTES, inputs, stepBytes, edgeBias, more, ROW_BYTES, 1);
      for (long at = 0; at < tokens * ROW_BYTES; at += Float.BYTES) {
        Memory.setFloat(sums + at, Memory.getFloat(sums + at) + Memory.getFloat(more + at));
      }
    }
    for (int token = 0; token < tokens; token++) {
      Memory.copy(
          sums + token * ROW_BYTES, y + token * yPitch + firstRow * (long) Float.BYTES, rowBytes);
    }
  }

  private static void gelu(long y, long yPitch, int tokens, int firstRow, int lastRow) {
    int whole = firstRow + (lastRow - firstRow) / VectorMath.LANES * VectorMath.LANES;
    for (int token = 0; token < tokens; token++) {
      long row = y + token * yPitch;
      for (int i = firstRow; i < whole; i += VectorMath.LANES) {
        long at = row + i * (long) Float.BYTES;
        Memory.setVector(at, VectorMath.gelu(Memory.vector(at)));
      }
      if (whole < lastRow) {
        long at = row / Float.BYTES + whole;
        long end = row / Float.BYTES + lastRow;
        FloatVector value = VectorMath.load(Memory.ALL, at, end);
        VectorMath.store(VectorMath.gelu(value), Memory.ALL, at, end);
      }
    }
  }
}
