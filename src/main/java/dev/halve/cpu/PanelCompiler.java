package dev.halve.cpu;

import static java.lang.constant.ConstantDescs.CD_int;
import static java.lang.constant.ConstantDescs.CD_long;
import static java.lang.constant.ConstantDescs.CD_void;

import java.lang.classfile.CodeBuilder;
import java.lang.classfile.TypeKind;
import java.lang.constant.MethodTypeDesc;
import java.util.Arrays;
import java.util.function.IntConsumer;

/** Writes the kernels of many tokens: sums run in lanes of tokens, over {@link Panels}. */
final class PanelCompiler extends KernelAssembler {
  /**
   * Of a panel that meets 2:4 weights. A pass of their kernels has four multiply-adds for each
   * vector and pair of rows. The JIT's first compiler runs out of registers at about 36 in a
   * method; with 24, some compiled none, for good.
   */
  static final int MOST_VECTORS = 4;

  private PanelCompiler(CodeBuilder code, int lanes) {
    super(code, lanes);
  }

  /**
   * The product with a 2:4 weight, tokens in lanes, by a whole panel. Narrow ones take several
   * pairs of rows at a time, so that sums need not wait for themselves.
   *
   * @param vectors of a panel, 1 to {@link #MOST_VECTORS}
   */
  static SparsePanelKernel sparsePanel(int lanes, int vectors) {
    int pairs = vectors == 1 ? 4 : vectors == 2 ? 2 : 1;
    return define(
        SparsePanelKernel.class,
        "SparsePanel" + pairs + "x" + vectors + "x" + lanes,
        MethodTypeDesc.of(CD_void, CD_long, CD_long, CD_long, CD_int),
        code -> new PanelCompiler(code, lanes).emitSparsePanel(vectors, pairs));
  }

  /** The product {@code c = a · b}, tokens in lanes of {@code b} and {@code c}. */
  static DensePanelKernel densePanel(int lanes, int vectors, int rows) {
    return define(
        DensePanelKernel.class,
        "DensePanel" + rows + "x" + vectors + "x" + lanes,
        MethodTypeDesc.of(
            CD_void, CD_long, CD_long, CD_long, CD_long, CD_long, CD_long, CD_long, CD_int),
        code -> new PanelCompiler(code, lanes).emitDensePanel(vectors, rows));
  }

  /**
   * The product of {@code rows} rows of a {@link PackedDenseWeight}, of which it has {@code
   * together}, with some vectors of a panel.
   */
  static DenseTile.Kernel denseTile(int lanes, int vectors, int rows, int together) {
    return define(
        DenseTile.Kernel.class,
        "DenseTile" + rows + "x" + vectors + "x" + lanes,
        MethodTypeDesc.of(CD_void, CD_long, CD_long, CD_long, CD_long, CD_int),
        code -> new PanelCompiler(code, lanes).emitDenseTile(vectors, rows, together));
  }

  /**
   * With as few sums as 16 registers hold, each must take its additions at an even pace, which C2's
   * scheduler does not keep: it would put the additions to one sum together. So a load of a single
   * value is checked for its bounds: where a check fails all sums are asked for, and none is put
   * off beyond it.
   */
  private void emitSparsePanel(int vectors, int together) {
    final int weight = 1;
    final int x = 3;
    final int y = 5;
    final int blocks = 7;
    final int pairs = PairedSparseWeight.PAIRS;
    final long valueBytes = (long) PairedSparseWeight.VALUES_BYTES;
    long pitch = vectorBytes() * vectors;
    int passes = code.allocateLocal(TypeKind.INT);
    int pair = code.allocateLocal(TypeKind.INT);
    int values = code.allocateLocal(TypeKind.LONG);
    int columns = code.allocateLocal(TypeKind.LONG);
    int places = code.allocateLocal(TypeKind.INT);
    int[] input = new int[3];
    Arrays.setAll(input, i -> code.allocateLocal(TypeKind.LONG));
    int[] rows = new int[2 * together];
    Arrays.setAll(rows, r -> code.allocateLocal(TypeKind.LONG));
    int[][] sums = new int[2 * together][vectors];
    int common = reference();
    int[] factor = {reference(), reference()};
    count(
        code.allocateLocal(TypeKind.INT),
        1,
        () -> code.iload(blocks),
        () -> {
          getInt(() -> address(weight, PairedSparseWeight.PASSES_AT));
          code.istore(passes);
          count(
              pair,
              together,
              () -> code.loadConstant(pairs),
              () -> {
                for (int p = 0; p < together; p++) {
                  long at = p * 2L * Short.BYTES;
                  getInt(() -> {
                    address(weight, at);
                    code.iload(pair).loadConstant(2 * Short.BYTES).imul().i2l().ladd();
                  });
                  code.istore(places);
                  for (int r = 0; r < 2; r++) {
                    code.iload(places).loadConstant(Short.SIZE * r).iushr();
                    code.loadConstant(0xFFFF).iand().loadConstant((int) pitch).imul().i2l();
                    code.lload(y).ladd().lstore(rows[2 * p + r]);
                  }
                }
                eachSum(sums, (r, v) -> loadSum(sums, r, v, rows[r], () -> {}, 0));
                address(weight, PairedSparseWeight.HEAD_BYTES);
                code.iload(pair).loadConstant((int) valueBytes).imul().i2l().ladd().lstore(values);
                address(weight, PairedSparseWeight.HEAD_BYTES + PairedSparseWeight.COLUMNS_AT);
                code.iload(pair).loadConstant(PairedSparseWeight.COLUMNS_BYTES).imul().i2l().ladd();
                code.lstore(columns);
                count(
                    code.allocateLocal(TypeKind.INT),
                    1,
                    () -> code.iload(passes),
                    () -> {
                      for (int p = 0; p < together; p++) {
                        long place = p * (long) PairedSparseWeight.COLUMNS_BYTES;
                        getInt(() -> address(columns, place));
                        code.istore(places);
                        for (int i = 0; i < input.length; i++) {
                          code.iload(places).loadConstant(Byte.SIZE * i).iushr();
                          code.loadConstant(0xFF).iand().loadConstant((int) pitch).imul().i2l();
                          code.lload(x).ladd().lstore(input[i]);
                        }
                        long value = p * valueBytes;
                        for (int r = 0; r < 2; r++) {
                          long at = value + r * (long) Float.BYTES;
                          broadcast(() -> address(values, at));
                          code.astore(factor[r]);
                        }
                        for (int v = 0; v < vectors; v++) {
                          long offset = v * vectorBytes();
                          loadFloats(() -> address(input[0], offset));
                          code.astore(common);
                          for (int r = 0; r < 2; r++) {
                            code.aload(common);
                            multiplyAdd(factor[r], sums[2 * p + r][v]);
                          }
                        }
                        for (int r = 0; r < 2; r++) {
                          long at = value + (2 + r) * (long) Float.BYTES;
                          broadcast(() -> address(values, at));
                          code.astore(factor[r]);
                          addProducts(factor[r], input[1 + r], sums[2 * p + r]);
                        }
                      }
                      advance(values, PairedSparseWeight.PASS_BYTES);
                      advance(columns, PairedSparseWeight.PASS_BYTES);
                    });
                eachSum(sums, (r, v) -> storeSum(sums, r, v, rows[r], () -> {}, 0));
              });
          code.lload(weight).iload(passes).loadConstant(PairedSparseWeight.PASS_BYTES).imul();
          code.loadConstant(PairedSparseWeight.HEAD_BYTES).iadd().i2l().ladd().lstore(weight);
        });
    code.return_();
  }

  private void emitDensePanel(int vectors, int rows) {
    final int a = 1;
    final int aRowPitch = 3;
    final int aStep = 5;
    final int b = 7;
    final int bPitch = 9;
    final int c = 11;
    final int cPitch = 13;
    final int steps = 15;
    int[][] sums = new int[rows][vectors];
    eachSum(
        sums,
        (r, v) -> {
          zero();
          sums[r][v] = stored();
        });
    count(
        code.allocateLocal(TypeKind.INT),
        1,
        () -> code.iload(steps),
        () -> {
          addProducts(sums, row -> rowAddress(a, aRowPitch, row, 0), b);
          code.lload(a).lload(aStep).ladd().lstore(a);
          code.lload(b).lload(bPitch).ladd().lstore(b);
        });
    eachSum(sums, (r, v) -> storeSum(sums, r, v, c, () -> addRows(cPitch, r), 0));
    code.return_();
  }

  /**
   * {@code DenseTile.Kernel.run}: distances within the weight are constants. Six rows by two
   * vectors leave two registers for values. C2's scheduler takes what it can at once, and would
   * load six of them and spill sums, were their address not some instructions in the making while
   * the inputs are loaded: it comes from the loop's count, since the weight moves by a constant.
   */
  private void emitDenseTile(int vectors, int rows, int together) {
    final int weight = 1;
    final int x = 3;
    final int y = 5;
    final int pitch = 7;
    final int steps = 9;
    int[][] sums = new int[rows][vectors];
    eachSum(sums, (r, v) -> loadSum(sums, r, v, y, () -> addRows(pitch, r), 0));
    count(
        code.allocateLocal(TypeKind.INT),
        1,
        () -> code.iload(steps),
        () -> {
          int values = bounded(weight);
          addProducts(sums, row -> address(values, row * (long) Float.BYTES), bounded(x));
          advance(weight, together * (long) Float.BYTES);
          code.lload(x).lload(pitch).ladd().lstore(x);
        });
    eachSum(sums, (r, v) -> storeSum(sums, r, v, y, () -> addRows(pitch, r), 0));
    code.return_();
  }

  /** Adds each row's value, whose address is given, times the vectors at an address. */
  private void addProducts(int[][] sums, IntConsumer value, int slot) {
    int[] inputs = new int[sums[0].length];
    for (int v = 0; v < inputs.length; v++) {
      long offset = v * vectorBytes();
      loadFloats(() -> address(slot, offset));
      inputs[v] = stored();
    }
    int factor = reference();
    for (int r = 0; r < sums.length; r++) {
      int row = r;
      broadcast(() -> value.accept(row));
      code.astore(factor);
      for (int v = 0; v < inputs.length; v++) {
        code.aload(inputs[v]);
        multiplyAdd(factor, sums[r][v]);
      }
    }
  }

  /** Adds a value times the vectors at an address to a row's sums. */
  private void addProducts(int value, int slot, int[] sums) {
    for (int v = 0; v < sums.length; v++) {
      long offset = v * vectorBytes();
      // As the second factor a load is an operand of the multiply-add itself; as the first it
      // would take an instruction and a register.
      code.aload(value);
      loadFloats(() -> address(slot, offset));
      addProduct(sums[v]);
    }
  }

  private interface Sum {
    void emit(int row, int vector);
  }

  private static void eachSum(int[][] sums, Sum sum) {
    for (int r = 0; r < sums.length; r++) {
      for (int v = 0; v < sums[r].length; v++) {
        sum.emit(r, v);
      }
    }
  }

  private void loadSum(int[][] sums, int row, int vector, int slot, Runnable add, long offset) {
    loadFloats(() -> {
      address(slot, offset + vector * vectorBytes());
      add.run();
    });
    sums[row][vector] = stored();
  }

  private void storeSum(int[][] sums, int row, int vector, int slot, Runnable add, long offset) {
    store(
        FLOATS,
        sums[row][vector],
        () -> {
          address(slot, offset + vector * vectorBytes());
          add.run();
        });
  }
}
