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
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandles;
import java.lang.invoke.MethodType;
import java.lang.reflect.AccessFlag;
import java.nio.ByteOrder;
import java.util.function.Consumer;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.Vector;
import jdk.incubator.vector.VectorOperators;
import jdk.incubator.vector.VectorSpecies;

/**
 * Writes {@link TileKernel}s as bytecode of Vector API calls. The JIT keeps an accumulator in a
 * register only if it is a local variable of its own, so that each shape of tile needs a method
 * unrolled over its tokens: a few lines here, thousands as source. The code is what javac would
 * make of those.
 *
 * <p>Sums run in lanes of weight rows: a vector holds the outputs of one token for {@code lanes}
 * neighbouring rows, and activations stay row-major on both sides.
 */
final class KernelCompiler {
  private static final ClassDesc FLOATS = FloatVector.class.describeConstable().orElseThrow();
  private static final ClassDesc INTS = IntVector.class.describeConstable().orElseThrow();
  private static final ClassDesc VECTOR = Vector.class.describeConstable().orElseThrow();
  private static final ClassDesc SPECIES = VectorSpecies.class.describeConstable().orElseThrow();
  private static final ClassDesc SEGMENT = MemorySegment.class.describeConstable().orElseThrow();
  private static final ClassDesc ORDER = ByteOrder.class.describeConstable().orElseThrow();
  private static final ClassDesc OPERATORS =
      VectorOperators.class.describeConstable().orElseThrow();
  private static final ClassDesc BINARY =
      VectorOperators.Binary.class.describeConstable().orElseThrow();
  private static final ClassDesc MEMORY = Memory.class.describeConstable().orElseThrow();
  private static final ClassDesc KERNEL = TileKernel.class.describeConstable().orElseThrow();
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

  private final CodeBuilder code;
  private final int lanes;

  private KernelCompiler(CodeBuilder code, int lanes) {
    this.code = code;
    this.lanes = lanes;
  }

  /**
   * The product with a 2:4 weight, of {@code tokens} by {@code lanes} rows of one row block, a step
   * being one block of {@link PackedSparseWeight}. For each of a block's eight nonzeros a row, one
   * permutation of the token's inputs brings every lane its own.
   *
   * @param lanes 4, 8 or 16
   */
  static TileKernel sparse(int lanes, int tokens) {
    return define(
        "SparseTile" + tokens + "x" + lanes,
        code -> new KernelCompiler(code, lanes).emitSparse(tokens, partialSums(tokens)));
  }

  /**
   * The product with a dense weight: {@code tokens} by {@code vectors * lanes} rows, a step being
   * one input, whose weights for these rows lie side by side.
   */
  static TileKernel dense(int lanes, int tokens, int vectors) {
    return define(
        "DenseTile" + tokens + "x" + vectors + "x" + lanes,
        code -> new KernelCompiler(code, lanes).emitDense(tokens, vectors));
  }

  /** Several sums per output where there are too few outputs to hide the latency of an addition. */
  private static int partialSums(int tokens) {
    return tokens >= 8 ? 1 : tokens >= 4 ? 2 : 4;
  }

  private static TileKernel define(String name, Consumer<CodeBuilder> body) {
    ClassDesc type = ClassDesc.of(KernelCompiler.class.getPackageName(), name);
    byte[] bytes =
        ClassFile.of()
            .build(
                type,
                builder ->
                    builder
                        .withFlags(AccessFlag.FINAL, AccessFlag.SYNTHETIC)
                        .withInterfaceSymbols(KERNEL)
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
                        .withMethodBody("run", RUN, ClassFile.ACC_PUBLIC, body));
    try {
      MethodHandles.Lookup lookup = MethodHandles.lookup().defineHiddenClass(bytes, true);
      return (TileKernel)
          lookup.findConstructor(lookup.lookupClass(), MethodType.methodType(void.class)).invoke();
    } catch (Throwable e) {
      throw new IllegalStateException("kernel " + name, e);
    }
  }

  private void emitSparse(int tokens, int sums) {
    int[][] accumulators = accumulators(tokens, sums);
    int inputVectors = PackedSparseWeight.BLOCK / lanes;
    int[][] inputs = new int[tokens][inputVectors];
    int indices = reference();
    loop(
        1,
        () -> {
          loadInts(() -> address(WEIGHT, 0));
          code.astore(indices);
          for (int t = 0; t < tokens; t++) {
            for (int v = 0; v < inputVectors; v++) {
              int token = t;
              int offset = v * lanes * Float.BYTES;
              loadInts(() -> tokenAddress(X, X_PITCH, token, offset));
              inputs[t][v] = reference();
              code.astore(inputs[t][v]);
            }
          }
          int values = reference();
          int index = reference();
          for (int n = 0; n < PackedSparseWeight.NONZEROS; n++) {
            long offset = PackedSparseWeight.valueOffset(n, 0);
            loadFloats(() -> address(WEIGHT, offset));
            code.astore(values);
            shiftRight(indices, PackedSparseWeight.INDEX_BITS * n);
            code.astore(index);
            int vector = n * inputVectors / PackedSparseWeight.NONZEROS;
            for (int t = 0; t < tokens; t++) {
              int sum = accumulators[t][n % sums];
              code.aload(index).aload(inputs[t][vector]);
              code.invokevirtual(INTS, "selectFrom", MethodTypeDesc.of(INTS, VECTOR));
              code.invokevirtual(INTS, "reinterpretAsFloats", MethodTypeDesc.of(FLOATS));
              multiplyAdd(values, sum);
            }
          }
          advance(X, PackedSparseWeight.BLOCK * Float.BYTES);
        });
    for (int t = 0; t < tokens; t++) {
      for (int s = 1; s < sums; s++) {
        code.aload(accumulators[t][0]).aload(accumulators[t][s]);
        code.invokevirtual(FLOATS, "add", MethodTypeDesc.of(FLOATS, VECTOR));
        code.astore(accumulators[t][0]);
      }
      storeFloats(accumulators[t][0], t, 0);
    }
    code.return_();
  }

  private void emitDense(int tokens, int vectors) {
    int[][] accumulators = new int[tokens][vectors];
    for (int v = 0; v < vectors; v++) {
      int offset = v * lanes * Float.BYTES;
      loadFloats(() -> address(BIAS, offset));
      for (int t = 0; t < tokens; t++) {
        accumulators[t][v] = reference();
        code.astore(accumulators[t][v]).aload(accumulators[t][v]);
      }
      code.pop();
    }
    loop(
        1,
        () -> {
          int[] weights = new int[vectors];
          for (int v = 0; v < vectors; v++) {
            int offset = v * lanes * Float.BYTES;
            loadFloats(() -> address(WEIGHT, offset));
            weights[v] = reference();
            code.astore(weights[v]);
          }
          int input = reference();
          for (int t = 0; t < tokens; t++) {
            species(FLOATS);
            tokenAddress(X, X_PITCH, t, 0);
            code.invokestatic(MEMORY, "getFloat", MethodTypeDesc.of(CD_float, CD_long));
            code.invokestatic(FLOATS, "broadcast", MethodTypeDesc.of(FLOATS, SPECIES, CD_float));
            code.astore(input);
            for (int v = 0; v < vectors; v++) {
              code.aload(weights[v]);
              multiplyAdd(input, accumulators[t][v]);
            }
          }
          advance(X, Float.BYTES);
        });
    for (int t = 0; t < tokens; t++) {
      for (int v = 0; v < vectors; v++) {
        storeFloats(accumulators[t][v], t, v * lanes * Float.BYTES);
      }
    }
    code.return_();
  }

  /** The first sum of each token starts from the bias, the others from zero. */
  private int[][] accumulators(int tokens, int sums) {
    int[][] accumulators = new int[tokens][sums];
    for (int s = 0; s < sums; s++) {
      if (s == 0) {
        loadFloats(() -> address(BIAS, 0));
      } else {
        species(FLOATS);
        code.invokestatic(FLOATS, "zero", MethodTypeDesc.of(FLOATS, SPECIES));
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

  /** {@code for (; steps > 0; steps -= unroll) body}, the weight advanced after each pass. */
  private void loop(int unroll, Runnable body) {
    int i = code.allocateLocal(TypeKind.INT);
    code.iconst_0().istore(i);
    Label top = code.newBoundLabel();
    Label end = code.newLabel();
    code.iload(i).iload(STEPS).if_icmpge(end);
    body.run();
    code.lload(WEIGHT).lload(WEIGHT_PITCH).ladd().lstore(WEIGHT);
    code.iinc(i, unroll).goto_(top);
    code.labelBinding(end);
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

  private void tokenAddress(int slot, int pitch, int token, long offset) {
    address(slot, offset);
    if (token > 0) {
      code.lload(pitch).loadConstant((long) token).lmul().ladd();
    }
  }

  private void species(ClassDesc vector) {
    code.getstatic(vector, "SPECIES_" + lanes * Float.SIZE, SPECIES);
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

  private void storeFloats(int accumulator, int token, long offset) {
    code.aload(accumulator).getstatic(MEMORY, "ALL", SEGMENT);
    tokenAddress(Y, Y_PITCH, token, offset);
    code.getstatic(MEMORY, "ORDER", ORDER);
    code.invokevirtual(
        FLOATS, "intoMemorySegment", MethodTypeDesc.of(CD_void, SEGMENT, CD_long, ORDER));
  }

  /** {@code accumulator = stack * factor + accumulator}. */
  private void multiplyAdd(int factor, int accumulator) {
    code.aload(factor).aload(accumulator);
    code.invokevirtual(FLOATS, "fma", MethodTypeDesc.of(FLOATS, VECTOR, VECTOR));
    code.astore(accumulator);
  }

  private void shiftRight(int ints, int bits) {
    code.aload(ints);
    if (bits != 0) {
      code.getstatic(OPERATORS, "LSHR", BINARY).loadConstant(bits);
      code.invokevirtual(INTS, "lanewise", MethodTypeDesc.of(INTS, BINARY, CD_int));
    }
  }
}
