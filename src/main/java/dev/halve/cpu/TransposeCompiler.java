package dev.halve.cpu;

import static java.lang.constant.ConstantDescs.CD_int;
import static java.lang.constant.ConstantDescs.CD_long;
import static java.lang.constant.ConstantDescs.CD_void;

import java.lang.classfile.CodeBuilder;
import java.lang.constant.ClassDesc;
import java.lang.constant.MethodTypeDesc;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.function.IntUnaryOperator;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;

/** Writes the kernels that turn squares of floats, by the permutations that a width is good at. */
final class TransposeCompiler extends KernelAssembler {
  private static final ClassDesc COMPARISON =
      VectorOperators.Comparison.class.describeConstable().orElseThrow();
  private static final ClassDesc MASK = VectorMask.class.describeConstable().orElseThrow();

  // The slots of TransposeKernel.Square.run's parameters; slot 0 is `this`.
  private static final int FROM = 1;
  private static final int FROM_PITCH = 3;
  private static final int TO = 5;
  private static final int TO_PITCH = 7;

  private TransposeCompiler(CodeBuilder code, int lanes) {
    super(code, lanes);
  }

  /** Turns {@code lanes} by {@code lanes} floats about the diagonal. */
  static TransposeKernel.Square transpose(int lanes) {
    return define(
        TransposeKernel.Square.class,
        "Transpose" + lanes,
        MethodTypeDesc.of(CD_void, CD_long, CD_long, CD_long, CD_long),
        code -> new TransposeCompiler(code, lanes).emitTranspose());
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
    long lower = constant(i -> i / 2 + i % 2 * lanes);
    long upper = constant(i -> (i + lanes) / 2 + i % 2 * lanes);
    int low = loadedInts(() -> code.loadConstant(lower));
    int high = loadedInts(() -> code.loadConstant(upper));
    int[] vectors = rows;
    for (int round = 1; round < lanes; round *= 2) {
      int[] next = new int[lanes];
      for (int i = 0; i < lanes; i++) {
        code.aload(i % 2 == 0 ? low : high);
        code.aload(vectors[i / 2]).aload(vectors[i / 2 + lanes / 2]);
        code.invokevirtual(INTS, "selectFrom", MethodTypeDesc.of(INTS, VECTOR, VECTOR));
        next[i] = stored();
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
      loadInts(() -> code.loadConstant(places));
      code.loadConstant(distance).invokevirtual(INTS, "and", MethodTypeDesc.of(INTS, CD_int));
      code.getstatic(OPERATORS, "NE", COMPARISON).iconst_0();
      code.invokevirtual(INTS, "compare", MethodTypeDesc.of(MASK, COMPARISON, CD_int));
      int mask = stored();
      int[] next = new int[lanes];
      for (int i = 0; i < lanes; i++) {
        code.aload(vectors[i]).aload(vectors[(i + distance) % lanes]).aload(mask);
        code.invokevirtual(INTS, "blend", MethodTypeDesc.of(INTS, VECTOR, MASK));
        next[i] = stored();
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
    return stored();
  }

  /** Address of two vectors of ints, in memory that stays. */
  private long constant(IntUnaryOperator lane) {
    MemorySegment constant = Arena.global().allocate(2 * vectorBytes(), vectorBytes());
    for (int i = 0; i < 2 * lanes; i++) {
      constant.setAtIndex(ValueLayout.JAVA_INT, i, lane.applyAsInt(i));
    }
    return constant.address();
  }
}
