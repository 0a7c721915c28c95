package dev.halve.cpu;

import static java.lang.constant.ConstantDescs.CD_int;
import static java.lang.constant.ConstantDescs.CD_long;
import static java.lang.constant.ConstantDescs.CD_void;

import java.lang.classfile.CodeBuilder;
import java.lang.classfile.TypeKind;
import java.lang.constant.MethodTypeDesc;

/**
 * Writes the kernels of a few tokens: sums run in lanes of weight rows, and activations stay
 * row-major on both sides.
 */
final class TileCompiler extends KernelAssembler {
  private static final MethodTypeDesc RUN =
      MethodTypeDesc.of(
          CD_void, CD_long, CD_long, CD_long, CD_long, CD_long, CD_long, CD_long, CD_int);

  // The slots of TileKernel.run's parameters; slot 0 is `this`.
  private static final int WEIGHT = 1;
  private static final int WEIGHT_PITCH = 3;
  private static final int X = 5;
  private static final int X_PITCH = 7;
  private static final int BIAS = 9;
  private static final int Y = 11;
  private static final int Y_PITCH = 13;
  private static final int STEPS = 15;

  private TileCompiler(CodeBuilder code, int lanes) {
    super(code, lanes);
  }

  /**
   * The product with a 2:4 weight, of {@code tokens} by one row block, a step being one block of
   * {@link TiledSparseWeight}. For each of a block's eight nonzeros a row, one permutation of the
   * token's inputs brings every lane its own.
   *
   * @param lanes 4, 8 or 16
   */
  static TileKernel sparse(int lanes, int tokens) {
    return define(
        TileKernel.class,
        "SparseTile" + tokens + "x" + lanes,
        RUN,
        code -> new TileCompiler(code, lanes).emitSparse(tokens));
  }

  /**
   * A single token's product waits for memory: there two vectors of rows go together, so that every
   * cache line is asked for once. Several sums an output where there are too few outputs to hide
   * the latency of an addition.
   */
  private void emitSparse(int tokens) {
    int rowVectors = TiledSparseWeight.BLOCK / lanes;
    int together = tokens == 1 ? Math.min(2, rowVectors) : 1;
    int outputs = tokens * together;
    int sums = outputs >= 8 ? 1 : outputs >= 4 ? 2 : 4 / together;
    int block = code.allocateLocal(TypeKind.LONG);
    int inputs = code.allocateLocal(TypeKind.LONG);
    count(
        code.allocateLocal(TypeKind.INT),
        together,
        () -> code.loadConstant(rowVectors),
        () -> {
          int[][][] accumulators = new int[together][][];
          for (int r = 0; r < together; r++) {
            accumulators[r] = accumulators(tokens, sums, r * vectorBytes());
          }
          code.lload(WEIGHT).lstore(block).lload(X).lstore(inputs);
          count(
              code.allocateLocal(TypeKind.INT),
              1,
              () -> code.iload(STEPS),
              () -> {
                emitSparseStep(accumulators, block, inputs);
                code.lload(block).lload(WEIGHT_PITCH).ladd().lstore(block);
                advance(inputs, TiledSparseWeight.BLOCK * Float.BYTES);
              });
          for (int r = 0; r < together; r++) {
            for (int t = 0; t < tokens; t++) {
              int token = t;
              long offset = r * vectorBytes();
              addUp(accumulators[r][t]);
              store(FLOATS, accumulators[r][t][0], () -> rowAddress(Y, Y_PITCH, token, offset));
            }
          }
          advance(WEIGHT, together * vectorBytes());
          advance(BIAS, together * vectorBytes());
          advance(Y, together * vectorBytes());
        });
    code.return_();
  }

  /** Adds a block's products to the sums {@code [row vectors][tokens][sums]}. */
  private void emitSparseStep(int[][][] accumulators, int block, int inputs) {
    int tokens = accumulators[0].length;
    int[] indices = new int[accumulators.length];
    for (int r = 0; r < indices.length; r++) {
      long offset = r * vectorBytes();
      indices[r] = loadedInts(() -> address(block, offset));
    }
    int[][] input = new int[tokens][TiledSparseWeight.BLOCK / lanes];
    for (int t = 0; t < tokens; t++) {
      for (int v = 0; v < input[t].length; v++) {
        int token = t;
        long offset = v * vectorBytes();
        input[t][v] = loadedInts(() -> rowAddress(inputs, X_PITCH, token, offset));
      }
    }
    int values = reference();
    int index = reference();
    for (int n = 0; n < TiledSparseWeight.NONZEROS; n++) {
      for (int r = 0; r < indices.length; r++) {
        long offset = TiledSparseWeight.valueOffset(n, r * lanes);
        loadFloats(() -> address(block, offset));
        code.astore(values);
        shiftRight(indices[r], TiledSparseWeight.INDEX_BITS * n);
        code.astore(index);
        for (int t = 0; t < tokens; t++) {
          int[] sums = accumulators[r][t];
          code.aload(index);
          code.aload(input[t][n * input[t].length / TiledSparseWeight.NONZEROS]);
          selectFrom();
          multiplyAdd(values, sums[n % sums.length]);
        }
      }
    }
  }

  /** Into the first of them. */
  private void addUp(int[] sums) {
    for (int s = 1; s < sums.length; s++) {
      code.aload(sums[0]).aload(sums[s]);
      code.invokevirtual(FLOATS, "add", MethodTypeDesc.of(FLOATS, VECTOR));
      code.astore(sums[0]);
    }
  }

  /** The first sum of each token starts from the bias, the others from zero. */
  private int[][] accumulators(int tokens, int sums, long offset) {
    int[][] accumulators = new int[tokens][sums];
    for (int s = 0; s < sums; s++) {
      if (s == 0) {
        loadFloats(() -> address(BIAS, offset));
      } else {
        zero();
      }
      for (int t = 0; t < tokens; t++) {
        accumulators[t][s] = reference();
        code.astore(accumulators[t][s]).aload(accumulators[t][s]);
      }
      code.pop();
    }
    return accumulators;
  }
}
