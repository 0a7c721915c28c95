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
import java.lang.foreign.ValueLayout;
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
 * What kernels are written with: bytecode of loops, addresses and Vector API calls. The JIT keeps
 * an accumulator in a register only if it is a local variable of its own, so that each shape of
 * tile needs a method unrolled over its sums: a few lines of a compiler, thousands as source. The
 * code is what javac would make of those.
 *
 * <p>Locals go by their slots. An address given as a {@link Runnable} is left on the stack by it.
 */
abstract class KernelAssembler {
  static final ClassDesc FLOATS = FloatVector.class.describeConstable().orElseThrow();
  static final ClassDesc INTS = IntVector.class.describeConstable().orElseThrow();
  static final ClassDesc VECTOR = Vector.class.describeConstable().orElseThrow();
  static final ClassDesc SPECIES = VectorSpecies.class.describeConstable().orElseThrow();
  static final ClassDesc SEGMENT = MemorySegment.class.describeConstable().orElseThrow();
  static final ClassDesc FLOAT_LAYOUT = ValueLayout.OfFloat.class.describeConstable().orElseThrow();
  static final ClassDesc INT_LAYOUT = ValueLayout.OfInt.class.describeConstable().orElseThrow();
  static final ClassDesc ORDER = ByteOrder.class.describeConstable().orElseThrow();
  static final ClassDesc OPERATORS = VectorOperators.class.describeConstable().orElseThrow();
  static final ClassDesc BINARY = VectorOperators.Binary.class.describeConstable().orElseThrow();
  static final ClassDesc MEMORY = Memory.class.describeConstable().orElseThrow();

  final CodeBuilder code;
  final int lanes;

  KernelAssembler(CodeBuilder code, int lanes) {
    this.code = code;
    this.lanes = lanes;
  }

  /** An instance of a hidden class that implements {@code kind} with the given {@code run}. */
  static <T> T define(Class<T> kind, String name, MethodTypeDesc run, Consumer<CodeBuilder> body) {
    ClassDesc type = ClassDesc.of(KernelAssembler.class.getPackageName(), name);
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

  long vectorBytes() {
    return lanes * (long) Float.BYTES;
  }

  int reference() {
    return code.allocateLocal(TypeKind.REFERENCE);
  }

  /** A new local with the reference on top of the stack. */
  int stored() {
    int local = reference();
    code.astore(local);
    return local;
  }

  /** {@code for (int i = 0; i < limit; i += step) body}. */
  void count(int i, int step, Runnable limit, Runnable body) {
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

  void advance(int slot, long bytes) {
    address(slot, bytes);
    code.lstore(slot);
  }

  /**
   * An address in a new local, by a mask that changes none: C2 then knows it to be within {@link
   * Memory#ALL}, and checks no load from it.
   */
  int bounded(int slot) {
    int local = code.allocateLocal(TypeKind.LONG);
    code.lload(slot).loadConstant(Long.MAX_VALUE >>> 1).land().lstore(local);
    return local;
  }

  void address(int slot, long offset) {
    code.lload(slot);
    if (offset != 0) {
      code.loadConstant(offset).ladd();
    }
  }

  void rowAddress(int slot, int pitch, int row, long offset) {
    address(slot, offset);
    addRows(pitch, row);
  }

  void addRows(int pitch, int rows) {
    if (rows > 0) {
      code.lload(pitch).loadConstant((long) rows).lmul().ladd();
    }
  }

  void species(ClassDesc vector) {
    code.getstatic(vector, "SPECIES_" + lanes * Float.SIZE, SPECIES);
  }

  void zero() {
    species(FLOATS);
    code.invokestatic(FLOATS, "zero", MethodTypeDesc.of(FLOATS, SPECIES));
  }

  void loadFloats(Runnable address) {
    load(FLOATS, address);
  }

  void loadInts(Runnable address) {
    load(INTS, address);
  }

  int loadedInts(Runnable address) {
    loadInts(address);
    return stored();
  }

  void load(ClassDesc vector, Runnable address) {
    species(vector);
    code.getstatic(MEMORY, "ALL", SEGMENT);
    address.run();
    code.getstatic(MEMORY, "ORDER", ORDER);
    code.invokestatic(
        vector, "fromMemorySegment", MethodTypeDesc.of(vector, SPECIES, SEGMENT, CD_long, ORDER));
  }

  /** A float of memory in all lanes. */
  void broadcast(Runnable address) {
    species(FLOATS);
    code.getstatic(MEMORY, "ALL", SEGMENT).getstatic(MEMORY, "FLOAT", FLOAT_LAYOUT);
    address.run();
    code.invokeinterface(SEGMENT, "get", MethodTypeDesc.of(CD_float, FLOAT_LAYOUT, CD_long));
    code.invokestatic(FLOATS, "broadcast", MethodTypeDesc.of(FLOATS, SPECIES, CD_float));
  }

  void getInt(Runnable address) {
    code.getstatic(MEMORY, "ALL", SEGMENT).getstatic(MEMORY, "INT", INT_LAYOUT);
    address.run();
    code.invokeinterface(SEGMENT, "get", MethodTypeDesc.of(CD_int, INT_LAYOUT, CD_long));
  }

  void store(ClassDesc vector, int local, Runnable address) {
    code.aload(local).getstatic(MEMORY, "ALL", SEGMENT);
    address.run();
    code.getstatic(MEMORY, "ORDER", ORDER);
    code.invokevirtual(
        vector, "intoMemorySegment", MethodTypeDesc.of(CD_void, SEGMENT, CD_long, ORDER));
  }

  /** {@code accumulator = stack * factor + accumulator}. */
  void multiplyAdd(int factor, int accumulator) {
    code.aload(factor);
    addProduct(accumulator);
  }

  /** Adds the product of the two vectors on top of the stack. */
  void addProduct(int accumulator) {
    code.aload(accumulator);
    code.invokevirtual(FLOATS, "fma", MethodTypeDesc.of(FLOATS, VECTOR, VECTOR));
    code.astore(accumulator);
  }

  /** The lanes of the ints on top of the stack that the ints below them name, as floats. */
  void selectFrom() {
    code.invokevirtual(INTS, "selectFrom", MethodTypeDesc.of(INTS, VECTOR));
    code.invokevirtual(INTS, "reinterpretAsFloats", MethodTypeDesc.of(FLOATS));
  }

  void shiftRight(int ints, int bits) {
    code.aload(ints);
    if (bits != 0) {
      code.getstatic(OPERATORS, "LSHR", BINARY).loadConstant(bits);
      code.invokevirtual(INTS, "lanewise", MethodTypeDesc.of(INTS, BINARY, CD_int));
    }
  }
}
