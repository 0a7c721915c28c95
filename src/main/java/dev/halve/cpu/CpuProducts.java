package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.LANES;

import dev.halve.core.Tensor;
import dev.halve.engine.Epilogue;
import dev.halve.engine.Weight;
import java.lang.foreign.MemorySegment;
import jdk.incubator.vector.FloatVector;

/**
 * Products of row-major activations, dense by OpenBLAS and 2:4 by the kernels; see {@code
 * Device.linear}, {@code Device.linearBackward} and {@code Device.addGram}.
 */
final class CpuProducts {
  /** Of one OpenBLAS product: with fewer, its packing of the weight shows. */
  private static final int FEWEST_TOKENS = 128;

  /** With more, packing costs no less and members that are put aside delay the others longer. */
  private static final int MOST_TOKENS = 1536;

  private final ThreadTeam team;
  private final Blas[] blas;
  private final Scratch[] scratch;

  /**
   * @param blas, scratch of each member of the team
   */
  CpuProducts(ThreadTeam team, Blas[] blas, Scratch[] scratch) {
    this.team = team;
    this.blas = blas;
    this.scratch = scratch;
  }

  void linear(Tensor x, Weight weight, Tensor bias, Epilogue epilogue, Tensor y, int column) {
    switch (weight) {
      case Weight.Trainable trainable ->
          dense(x, trainable.parameter().compute(), bias, epilogue, y, column);
      case Weight.Compressed compressed ->
          sparse(x, (CpuSparseWeight) compressed.packed(), bias, epilogue, y, column);
      case Weight.Hybrid hybrid -> {
        long row = 0;
        for (Weight part : hybrid.parts()) {
          long rows = part.shape().extent(0);
          linear(x, part, bias.rows(row, rows), epilogue, y, Math.toIntExact(column + row));
          row += rows;
        }
      }
    }
  }

  private void sparse(
      Tensor x, CpuSparseWeight weight, Tensor bias, Epilogue epilogue, Tensor y, int column) {
    PanelKernels kernels = CpuKernels.best().panels();
    if (x.extent(0) < kernels.fewestTokens()) {
      TiledProduct.run(
          team, CpuKernels.best().tiles(), weight.tiled(), x, bias, epilogue, y, column);
    } else {
      PanelLinear.run(team, scratch, kernels, weight.paired(), x, bias, epilogue, y, column);
    }
  }

  /**
   * Tokens of one product, which packs the whole weight for itself: as many as leave each member of
   * the team one product, or several of the most tokens.
   */
  private int productTokens(int tokens) {
    int rounds = Math.ceilDiv(tokens, MOST_TOKENS * team.size());
    return Math.max(FEWEST_TOKENS, Math.ceilDiv(tokens, rounds * team.size()));
  }

  private void dense(
      Tensor x, Tensor weight, Tensor bias, Epilogue epilogue, Tensor y, int column) {
    int tokens = (int) x.extent(0);
    int in = (int) weight.extent(1);
    int out = (int) weight.extent(0);
    int width = (int) y.extent(1);
    int block = productTokens(tokens);
    int tokenParts = (tokens + block - 1) / block;
    // Few tokens: cut the outputs instead.
    int outParts = tokenParts >= 2 ? 1 : Math.min(4, (out + 95) / 96);
    team.run(
        tokenParts * outParts,
        (part, member) -> {
          int token = part / outParts * block;
          int count = Math.min(tokens, token + block) - token;
          int first = (int) ((long) out * (part % outParts) / outParts);
          int last = (int) ((long) out * (part % outParts + 1) / outParts);
          blas[member].timesTransposed(
              count,
              last - first,
              in,
              1,
              x.segment().address() + 4L * token * in,
              in,
              weight.segment().address() + 4L * first * in,
              in,
              0,
              y.segment().address() + 4 * ((long) token * width + column + first),
              width);
          for (long t = token; t < token + count; t++) {
            finish(y.segment(), t * width + column + first, last - first, bias, first, epilogue);
          }
        });
  }

  private static void finish(
      MemorySegment y, long at, int count, Tensor bias, int first, Epilogue epilogue) {
    for (int i = 0; i < count; i += LANES) {
      FloatVector value =
          VectorMath.load(y, at + i, at + count)
              .add(VectorMath.load(bias.segment(), first + i, first + count));
      if (epilogue == Epilogue.GELU) {
        value = VectorMath.gelu(value);
      }
      VectorMath.store(value, y, at + i, at + count);
    }
  }

  void addGram(Tensor x, Tensor gram) {
    int tokens = (int) x.extent(0);
    int in = (int) x.extent(1);
    // Rows of the triangle differ in length: enough parts that a team's members end together.
    int rowBlock = Math.max(32, in / 24);
    team.run(
        Math.ceilDiv(in, rowBlock),
        (part, member) -> {
          int first = part * rowBlock;
          long from = x.segment().address() + 4L * first;
          blas[member].transposedTimes(
              Math.min(rowBlock, in - first),
              in - first,
              tokens,
              1,
              from,
              in,
              from,
              in,
              1,
              gram.segment().address() + 4L * first * (in + 1),
              in);
        });
  }

  void linearBackward(
      Tensor x,
      Weight weight,
      Tensor dY,
      int column,
      Tensor dWeight,
      Tensor dBias,
      Tensor dX,
      boolean addToInput) {
    Tensor value = ((Weight.Trainable) weight).parameter().compute();
    int tokens = (int) x.extent(0);
    int in = (int) value.extent(1);
    int out = (int) value.extent(0);
    int width = (int) dY.extent(1);
    long dYAddress = dY.segment().address() + 4L * column;
    int rowBlock = Math.max(16, Math.min(128, out / 4));
    int rowParts = (out + rowBlock - 1) / rowBlock;
    int block = productTokens(tokens);
    int tokenParts = dX == null ? 0 : (tokens + block - 1) / block;
    team.run(
        rowParts + tokenParts,
        (part, member) -> {
          if (part < rowParts) {
            int first = part * rowBlock;
            int rows = Math.min(out, first + rowBlock) - first;
            blas[member].transposedTimes(
                rows,
                in,
                tokens,
                1,
                dYAddress + 4L * first,
                width,
                x.segment().address(),
                in,
                1,
                dWeight.segment().address() + 4L * first * in,
                in);
            for (long token = 0; dBias != null && token < tokens; token++) {
              VectorMath.addTo(
                  dBias.segment(), first, dY.segment(), token * width + column + first, rows);
            }
          } else {
            int token = (part - rowParts) * block;
            int count = Math.min(tokens, token + block) - token;
            blas[member].times(
                count,
                in,
                out,
                1,
                dYAddress + 4L * token * width,
                width,
                value.segment().address(),
                in,
                addToInput ? 1 : 0,
                dX.segment().address() + 4L * token * in,
                in);
          }
        });
  }
}
