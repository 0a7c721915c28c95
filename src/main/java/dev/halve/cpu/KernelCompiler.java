package dev.halve.cpu;

import static java.lang.constant.ConstantDescs.CD_float;
import static java.lang.constant.ConstantDescs.CD_int;
import static java.lang.constant.ConstantDescs.CD_long;
import static java.lang.constant.ConstantDescs.CD_void;

import java.lang.classfile.ClassFile;
import java.lang.classfile.CodeBuilder;
import java.lang.classfile.Label;
import java.lang.classfile.TypeKind;
import java.lang.constant.ClassDesc;
import java.lang.constant.ConstantDescs;
import java.lang.constant.MethodTypeDesc;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.AccessFlag;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.function.Consumer;
import java.util.function.IntConsumer;
import java.util.function.IntUnaryOperator;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.Vector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorSpecies;

/**
 * Writes kernels as bytecode of Vector API calls. The JIT keeps an accumulator in a register only
 * if it is a local variable of its own, so that each shape of tile needs a method unrolled over its
 * tokens: a few lines here, thousands as source. The code is what javac would make of those.
 *
 * <p>Two families. For a few tokens, sums run in lanes of weight rows ({@link TileKernel}), and
 * activations stay row-major on both sides. For many, they run in lanes of tokens ({@link
 * SparsePanelKernel}, {@link DensePanelKernel}) over {@link Panels} of activations.
 */
final class KernelCompiler {
  private static final ClassDesc FLOATS = FloatVector.class.describeConstable().orElseThrow();
  private static final ClassDesc INTS = IntVector.class.describeConstable().orElseThrow();
  private static final ClassDesc VECTOR = Vector.class.describeConstable().orElseThrow();
  private static final ClassDesc SPECIES = VectorSpecies.class.describeConstable().orElseThrow();
  private static final ClassDesc SEGMENT = MemorySegment.class.describeConstable().orElseThrow();
  private static final ClassDesc FLOAT_LAYOUT =
      ValueLayout.OfFloat.class.describeConstable().orElseThrow();
  private static final ClassDesc INT_LAYOUT =
      ValueLayout.OfInt.class.describeConstable().orElseThrow();
  private static final ClassDesc ORDER = ByteOrder.class.describeConstable().orElseThrow();
  private static final ClassDesc OPERATORS =
      VectorOperators.class.describeConstable().orElseThrow();
  private static final ClassDesc BINARY =
      VectorOperators.Binary.class.describeConstable().orElseThrow();
  private static final ClassDesc COMPARISON =
      VectorOperators.Comparison.class.describeConstable().orElseThrow();
  private static final ClassDesc MASK = VectorMask.class.describeConstable().orElseThrow();
  private static final ClassDesc MEMORY = Memory.class.describeConstable().orElseThrow();
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

  // Of TransposeKernel.run's.
  private static final int FROM = 1;
  private static final int FROM_PITCH = 3;
  private static final int TO = 5;
  private static final int TO_PITCH = 7;

  /**
   * Of a panel kernel's loop. The JIT's first compiler runs out of registers at about 36
   * multiply-adds in a method; what it cannot profile may never reach the second.
   */
  private static final int NONZEROS_A_PASS = 2;

  /** {@link SparsePanelKernel}'s argument of that name. */
  static final long PASS_BYTES = NONZEROS_A_PASS * PackedSparseWeight.BLOCK * (long) Float.BYTES;

  private final CodeBuilder code;
  private final int lanes;

  private KernelCompiler(CodeBuilder code, int lanes) {
    this.code = code;
    this.lanes = lanes;
  }

  /**
   * The product with a 2:4 weight, of {@code tokens} by one row block, a step being one block of
   * {@link PackedSparseWeight}. For each of a block's eight nonzeros a row, one permutation of the
   * token's inputs brings every lane its own.
   *
   * @param lanes 4, 8 or 16
   */
  static TileKernel sparse(int lanes, int tokens) {
    return define(
        TileKernel.class,
        "SparseTile" + tokens + "x" + lanes,
        RUN,
        code -> new KernelCompiler(code, lanes).emitSparse(tokens));
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
          KernelCompiler compiler = new KernelCompiler(code, lanes);
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
        code -> new KernelCompiler(code, lanes).emitDensePanel(vectors, rows));
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
        code -> new KernelCompiler(code, lanes).emitDenseTile(vectors, rows, together));
  }

  /** Turns {@code lanes} by {@code lanes} floats about the diagonal. */
  static TransposeKernel transpose(int lanes) {
    return define(
        TransposeKernel.class,
        "Transpose" + lanes,
        MethodTypeDesc.of(CD_void, CD_long, CD_long, CD_long, CD_long),
        code -> new KernelCompiler(code, lanes).emitTranspose());
  }

  private static <T> T define(
      Class<T> kind, String name, MethodTypeDesc run, Consumer<CodeBuilder> body) {
    ClassDesc type = ClassDesc.of(KernelCompiler.class.getPackageName(), name);
    byte[] bytes =
        ClassFile.of()
            .build(
                type,
                builder ->
                    builder
                        .withFlags(AccessFlag.FINAL, AccessFlag.SYNTHETIC)
                        .withInterfaceSymbols(kind.describeConstable().orElseThrow())
                        .withMethodBody(
                            ConstantDescs.INIT_NAME,
                            ConstantDescs.MTD_void,
                            ClassFile.ACC_PRIVATE,
                            code ->
                                code.aload(0)
                                    .invokespecial(
                                        ConstantDescs.CD_Object,
                                        ConstantDescs.INIT_NAME,
                                        ConstantDescs.MTD_void)
                                    .return_())
                        .withMethodBody("run", run, ClassFile.ACC_PUBLIC, body));
    try {
      MethodHandles.Lookup lookup = MethodHandles.lookup().defineHiddenClass(bytes, true);
      return kind.cast(
          lookup.findConstructor(lookup.lookupClass(), MethodType.methodType(void.class)).invoke());
    } catch (Throwable e) {
      throw new IllegalStateException("kernel " + name, e);
    }
  }

  /**
   * A single token's product waits for memory: there two vectors of rows go together, so that every
   * cache line is asked for once. Several sums an output where there are too few outputs to hide
   * the latency of an addition.
   */
  private void emitSparse(int tokens) {
    int rowVectors = PackedSparseWeight.BLOCK / lanes;
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
                advance(inputs, PackedSparseWeight.BLOCK * Float.BYTES);
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
    int[][] input = new int[tokens][PackedSparseWeight.BLOCK / lanes];
    for (int t = 0; t < tokens; t++) {
      for (int v = 0; v < input[t].length; v++) {
        int token = t;
        long offset = v * vectorBytes();
        input[t][v] = loadedInts(() -> rowAddress(inputs, X_PITCH, token, offset));
      }
    }
    int values = reference();
    int index = reference();
    for (int n = 0; n < PackedSparseWeight.NONZEROS; n++) {
      for (int r = 0; r < indices.length; r++) {
        long offset = PackedSparseWeight.valueOffset(n, r * lanes);
        loadFloats(() -> address(block, offset));
        code.astore(values);
        shiftRight(indices[r], PackedSparseWeight.INDEX_BITS * n);
        code.astore(index);
        for (int t = 0; t < tokens; t++) {
          int[] sums = accumulators[r][t];
          code.aload(index);
          code.aload(input[t][n * input[t].length / PackedSparseWeight.NONZEROS]);
          selectFrom();
          multiplyAdd(values, sums[n % sums.length]);
        }
      }
    }
  }

  private int loadedInts(Runnable address) {
    loadInts(address);
    int ints = reference();
    code.astore(ints);
    return ints;
  }

  /** Into the first of them. */
  private void addUp(int[] sums) {
    for (int s = 1; s < sums.length; s++) {
      code.aload(sums[0]).aload(sums[s]);
      code.invokevirtual(FLOATS, "add", MethodTypeDesc.of(FLOATS, VECTOR));
      code.astore(sums[0]);
    }
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
          sums[r][v] = reference();
          code.astore(sums[r][v]);
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

  /** {@code DenseTile.Kernel.run}: distances within the weight are constants. */
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
          addProducts(sums, row -> address(weight, row * (long) Float.BYTES), x);
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
      inputs[v] = reference();
      code.astore(inputs[v]);
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

  private void emitTranspose() {
    int[] vectors = new int[lanes];
    for (int i = 0; i < lanes; i++) {
      int row = i;
      vectors[i] = loadedInts(() -> rowAddress(FROM, FROM_PITCH, row, 0));
    }
    int[] turned = lanes >= 16 ? interleaved(vectors) : rotated(vectors);
    for (int i = 0; i < lanes; i++) {
      int row = i;
      store(INTS, turned[i], () -> rowAddress(TO, TO_PITCH, row, 0));
    }
    code.return_();
  }

  /**
   * Interleaving each half's vectors with the other's, as often as the lanes double: with AVX-512
   * one instruction each.
   */
  private int[] interleaved(int[] rows) {
    int low = reference();
    int high = reference();
    loadInts(() -> code.loadConstant(constant(i -> i / 2 + i % 2 * lanes)));
    code.astore(low);
    loadInts(() -> code.loadConstant(constant(i -> (i + lanes) / 2 + i % 2 * lanes)));
    code.astore(high);
    int[] vectors = rows;
    for (int round = 1; round < lanes; round *= 2) {
      int[] next = new int[lanes];
      for (int i = 0; i < lanes; i++) {
        code.aload(i % 2 == 0 ? low : high);
        code.aload(vectors[i / 2]).aload(vectors[i / 2 + lanes / 2]);
        code.invokevirtual(INTS, "selectFrom", MethodTypeDesc.of(INTS, VECTOR, VECTOR));
        next[i] = reference();
        code.astore(next[i]);
      }
      vectors = next;
    }
    return vectors;
  }

  /**
   * Rows turned by their number, columns by theirs, rows once more. Below AVX-512 a permutation of
   * one vector is one instruction and so is a choice between two, a permutation of two is several;
   * columns turn by choices alone, a bit of the distance at a time.
   */
  private int[] rotated(int[] rows) {
    long places = constant(i -> i % lanes);
    int[] vectors = new int[lanes];
    for (int i = 0; i < lanes; i++) {
      vectors[i] = rotated(rows[i], places, (lanes - i) % lanes);
    }
    for (int distance = 1; distance < lanes; distance *= 2) {
      int mask = reference();
      loadInts(() -> code.loadConstant(places));
      code.loadConstant(distance).invokevirtual(INTS, "and", MethodTypeDesc.of(INTS, CD_int));
      code.getstatic(OPERATORS, "NE", COMPARISON).iconst_0();
      code.invokevirtual(INTS, "compare", MethodTypeDesc.of(MASK, COMPARISON, CD_int));
      code.astore(mask);
      int[] next = new int[lanes];
      for (int i = 0; i < lanes; i++) {
        code.aload(vectors[i]).aload(vectors[(i + distance) % lanes]).aload(mask);
        code.invokevirtual(INTS, "blend", MethodTypeDesc.of(INTS, VECTOR, MASK));
        next[i] = reference();
        code.astore(next[i]);
      }
      vectors = next;
    }
    int[] turned = new int[lanes];
    for (int i = 0; i < lanes; i++) {
      turned[i] = rotated(vectors[(lanes - i) % lanes], places, i);
    }
    return turned;
  }

  /** Lane {@code i} takes lane {@code i + distance}. */
  private int rotated(int vector, long places, int distance) {
    if (distance == 0) {
      return vector;
    }
    loadInts(() -> code.loadConstant(places + distance * (long) Integer.BYTES));
    code.aload(vector).invokevirtual(INTS, "selectFrom", MethodTypeDesc.of(INTS, VECTOR));
    int rotated = reference();
    code.astore(rotated);
    return rotated;
  }

  /** Address of two vectors of ints, in memory that stays. */
  private long constant(IntUnaryOperator lane) {
    MemorySegment constant = Arena.global().allocate(2 * vectorBytes(), vectorBytes());
    for (int i = 0; i < 2 * lanes; i++) {
      constant.setAtIndex(ValueLayout.JAVA_INT, i, lane.applyAsInt(i));
    }
    return constant.address();
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
    sums[row][vector] = reference();
    code.astore(sums[row][vector]);
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

  private void addRows(int pitch, int rows) {
    if (rows > 0) {
      code.lload(pitch).loadConstant((long) rows).lmul().ladd();
    }
  }

  private long vectorBytes() {
    return lanes * (long) Float.BYTES;
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

  private int reference() {
    return code.allocateLocal(TypeKind.REFERENCE);
  }

  /** {@code for (int i = 0; i < limit; i += step) body}. */
  private void count(int i, int step, Runnable limit, Runnable body) {
    code.iconst_0().istore(i);
    Label top = code.newBoundLabel();
    Label end = code.newLabel();
    code.iload(i);
    limit.run();
    code.if_icmpge(end);
    body.run();
    code.iinc(i, step).goto_(top);
    code.labelBinding(end);
  }

  /** {@code do body while (address != end)}. */
  private void until(int address, int end, Runnable body) {
    Label top = code.newBoundLabel();
    body.run();
    code.lload(address).lload(end).lcmp().ifne(top);
  }

  private void advance(int slot, long bytes) {
    address(slot, bytes);
    code.lstore(slot);
  }

  private void address(int slot, long offset) {
    code.lload(slot);
    if (offset != 0) {
      code.loadConstant(offset).ladd();
    }
  }

  private void rowAddress(int slot, int pitch, int row, long offset) {
    address(slot, offset);
    addRows(pitch, row);
  }

  private void species(ClassDesc vector) {
    code.getstatic(vector, "SPECIES_" + lanes * Float.SIZE, SPECIES);
  }

  private void zero() {
    species(FLOATS);
    code.invokestatic(FLOATS, "zero", MethodTypeDesc.of(FLOATS, SPECIES));
  }

  private void loadFloats(Runnable address) {
    load(FLOATS, address);
  }

  private void loadInts(Runnable address) {
    load(INTS, address);
  }

  private void load(ClassDesc vector, Runnable address) {
    species(vector);
    code.getstatic(MEMORY, "ALL", SEGMENT);
    address.run();
    code.getstatic(MEMORY, "ORDER", ORDER);
    code.invokestatic(
        vector, "fromMemorySegment", MethodTypeDesc.of(vector, SPECIES, SEGMENT, CD_long, ORDER));
  }

  /** A float of memory in all lanes. */
  private void broadcast(Runnable address) {
    species(FLOATS);
    code.getstatic(MEMORY, "ALL", SEGMENT).getstatic(MEMORY, "FLOAT", FLOAT_LAYOUT);
    address.run();
    code.invokeinterface(SEGMENT, "get", MethodTypeDesc.of(CD_float, FLOAT_LAYOUT, CD_long));
    code.invokestatic(FLOATS, "broadcast", MethodTypeDesc.of(FLOATS, SPECIES, CD_float));
  }

  private void getInt(Runnable address) {
    code.getstatic(MEMORY, "ALL", SEGMENT).getstatic(MEMORY, "INT", INT_LAYOUT);
    address.run();
    code.invokeinterface(SEGMENT, "get", MethodTypeDesc.of(CD_int, INT_LAYOUT, CD_long));
  }

  private void store(ClassDesc vector, int local, Runnable address) {
    code.aload(local).getstatic(MEMORY, "ALL", SEGMENT);
    address.run();
    code.getstatic(MEMORY, "ORDER", ORDER);
    code.invokevirtual(
        vector, "intoMemorySegment", MethodTypeDesc.of(CD_void, SEGMENT, CD_long, ORDER));
  }

  /** {@code accumulator = stack * factor + accumulator}. */
  private void multiplyAdd(int factor, int accumulator) {
    code.aload(factor);
    addProduct(accumulator);
  }

  /** Adds the product of the two vectors on top of the stack. */
  private void addProduct(int accumulator) {
    code.aload(accumulator);
    code.invokevirtual(FLOATS, "fma", MethodTypeDesc.of(FLOATS, VECTOR, VECTOR));
    code.astore(accumulator);
  }

  /** The lanes of the ints on top of the stack that the ints below them name, as floats. */
  private void selectFrom() {
    code.invokevirtual(INTS, "selectFrom", MethodTypeDesc.of(INTS, VECTOR));
    code.invokevirtual(INTS, "reinterpretAsFloats", MethodTypeDesc.of(FLOATS));
  }

  private void shiftRight(int ints, int bits) {
    code.aload(ints);
    if (bits != 0) {
      code.getstatic(OPERATORS, "LSHR", BINARY).loadConstant(bits);
      code.invokevirtual(INTS, "lanewise", MethodTypeDesc.of(INTS, BINARY, CD_int));
    }
  }
}
