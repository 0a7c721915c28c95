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
   * Of a panel kernel's loop. The JIT's first compiler runs out of registers at about 36
   * multiply-adds in a method; what it cannot profile may never reach the second.
   */
  private static final int NONZEROS_A_PASS = 2;

  /** {@link SparsePanelKernel}'s argument of that name. */
  static final long PASS_BYTES = NONZEROS_A_PASS * PackedSparseWeight.BLOCK * (long) Float.BYTES;

  private PanelCompiler(CodeBuilder code, int lanes) {
    super(code, lanes);
  }

  /**
   * The product with a 2:4 weight of one row block, tokens in lanes: {@code rows} at a time by a
   * whole panel. For each nonzero, the panel's row of its input meets its value in all lanes.
   *
   * @param vectors of a panel; with {@code rows}, at most 16 sums: the first compiler's limit
   */
  static SparsePanelKernel sparsePanel(int lanes, int vectors, int rows) {
    return define(
        SparsePanelKernel.class,
        "SparsePanel" + rows + "x" + vectors + "x" + lanes,
        MethodTypeDesc.of(CD_void, CD_long, CD_long, CD_long, CD_int, CD_long),
        code -> {
          PanelCompiler compiler = new PanelCompiler(code, lanes);
          if (lanes >= 16) {
            compiler.emitWideSparsePanel(vectors, rows);
          } else {
            compiler.emitSparsePanel(vectors, rows);
          }
        });
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
   * off beyond it. C2 would take the checks out of a loop that it sees through, and unroll that; of
   * the loop over blocks it cannot tell how often it runs, of the one within not how far its
   * addresses move.
   */
  private void emitSparsePanel(int vectors, int rows) {
    final int weight = 1;
    final int x = 3;
    final int y = 5;
    final int blocks = 7;
    final int passBytes = 8;
    long pitch = vectorBytes() * vectors;
    int shift = Long.numberOfTrailingZeros(pitch);
    int values = code.allocateLocal(TypeKind.LONG);
    int end = code.allocateLocal(TypeKind.LONG);
    int inputs = code.allocateLocal(TypeKind.LONG);
    int input = code.allocateLocal(TypeKind.LONG);
    int value = reference();
    int[] indices = new int[rows];
    Arrays.setAll(indices, r -> code.allocateLocal(TypeKind.LONG));
    int[][] sums = new int[rows][vectors];
    count(
        code.allocateLocal(TypeKind.INT),
        rows,
        () -> code.loadConstant(PackedSparseWeight.BLOCK),
        () -> {
          eachSum(sums, (r, v) -> loadSum(sums, r, v, y, () -> {}, r * pitch));
          code.lload(weight).lstore(values).lload(x).lstore(inputs);
          code.lload(weight).iload(blocks).i2l();
          code.loadConstant(PackedSparseWeight.BLOCK_BYTES).lmul().ladd().lstore(end);
          until(
              values,
              end,
              () -> {
                for (int r = 0; r < rows; r++) {
                  long offset = r * (long) Integer.BYTES;
                  getInt(() -> address(values, offset));
                  code.i2l().loadConstant(0xFFFFFFFFL).land();
                  code.loadConstant(shift).lshl().lstore(indices[r]);
                }
                advance(values, PackedSparseWeight.valueOffset(0, 0));
                count(
                    code.allocateLocal(TypeKind.INT),
                    1,
                    () -> code.loadConstant(PackedSparseWeight.NONZEROS / NONZEROS_A_PASS),
                    () -> {
                      for (int n = 0; n < NONZEROS_A_PASS; n++) {
                        for (int r = 0; r < rows; r++) {
                          code.lload(inputs).lload(indices[r]);
                          code.loadConstant(PackedSparseWeight.INDEX_BITS * n).lushr();
                          code.loadConstant(0xFL << shift).land().ladd().lstore(input);
                          long place =
                              PackedSparseWeight.valueOffset(n, r)
                                  - PackedSparseWeight.valueOffset(0, 0);
                          broadcast(() -> address(values, place));
                          code.astore(value);
                          addProducts(value, input, sums[r]);
                        }
                      }
                      for (int r = 0; r < rows; r++) {
                        code.lload(indices[r]);
                        code.loadConstant(PackedSparseWeight.INDEX_BITS * NONZEROS_A_PASS).lushr();
                        code.lstore(indices[r]);
                      }
                      code.lload(values).lload(passBytes).ladd().lstore(values);
                    });
                advance(inputs, PackedSparseWeight.BLOCK * pitch);
              });
          eachSum(sums, (r, v) -> storeSum(sums, r, v, y, () -> {}, r * pitch));
          advance(weight, rows * (long) Integer.BYTES);
          advance(y, rows * pitch);
        });
    code.return_();
  }

  private void emitWideSparsePanel(int vectors, int rows) {
    final int weight = 1;
    final int x = 3;
    final int y = 5;
    final int blocks = 7;
    long pitch = vectorBytes() * vectors;
    int row = code.allocateLocal(TypeKind.INT);
    int block = code.allocateLocal(TypeKind.LONG);
    int inputs = code.allocateLocal(TypeKind.LONG);
    int values = code.allocateLocal(TypeKind.LONG);
    int input = code.allocateLocal(TypeKind.LONG);
    int value = reference();
    int[] lane = new int[rows];
    int[] indices = new int[rows];
    for (int r = 0; r < rows; r++) {
      lane[r] = reference();
      indices[r] = code.allocateLocal(TypeKind.INT);
    }
    int[][] sums = new int[rows][vectors];
    count(
        row,
        rows,
        () -> code.loadConstant(PackedSparseWeight.BLOCK),
        () -> {
          eachSum(sums, (r, v) -> loadSum(sums, r, v, y, () -> {}, r * pitch));
          for (int r = 0; r < rows; r++) {
            species(INTS);
            code.iload(row).loadConstant(r).iadd().loadConstant(lanes - 1).iand();
            code.invokestatic(INTS, "broadcast", MethodTypeDesc.of(INTS, SPECIES, CD_int));
            code.astore(lane[r]);
          }
          code.lload(weight).lstore(block).lload(x).lstore(inputs);
          count(
              code.allocateLocal(TypeKind.INT),
              1,
              () -> code.iload(blocks),
              () -> {
                for (int r = 0; r < rows; r++) {
                  address(block, (long) r * Integer.BYTES);
                  code.iload(row).loadConstant(Integer.BYTES).imul().i2l().ladd();
                  code.invokestatic(MEMORY, "getInt", MethodTypeDesc.of(CD_int, CD_long));
                  code.istore(indices[r]);
                }
                // The values of the rows' vector.
                address(block, PackedSparseWeight.valueOffset(0, 0));
                code.iload(row).loadConstant(-lanes).iand();
                code.loadConstant(Float.BYTES).imul().i2l().ladd().lstore(values);
                // One nonzero a pass: over several, the JIT's scheduler would put the additions
                // to one sum together and wait for each.
                count(
                    code.allocateLocal(TypeKind.INT),
                    1,
                    () -> code.loadConstant(PackedSparseWeight.NONZEROS),
                    () -> {
                      for (int r = 0; r < rows; r++) {
                        code.lload(inputs).iload(indices[r]).loadConstant(0xF).iand();
                        code.loadConstant((int) pitch).imul().i2l().ladd().lstore(input);
                        // A lane of a vector: a load of one float would check its bounds.
                        code.aload(lane[r]);
                        loadInts(() -> address(values, 0));
                        selectFrom();
                        code.astore(value);
                        addProducts(value, input, sums[r]);
                        code.iload(indices[r]).loadConstant(PackedSparseWeight.INDEX_BITS).iushr();
                        code.istore(indices[r]);
                      }
                      advance(values, PackedSparseWeight.BLOCK * Float.BYTES);
                    });
                advance(block, PackedSparseWeight.BLOCK_BYTES);
                advance(inputs, PackedSparseWeight.BLOCK * pitch);
              });
          eachSum(sums, (r, v) -> storeSum(sums, r, v, y, () -> {}, r * pitch));
          advance(y, rows * pitch);
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
