package dev.halve.cuda;

import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import dev.halve.core.HalveException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.util.ArrayList;
import java.util.List;

/**
 * cuBLASLt, where a CUDA toolkit is installed: products with 16-bit operands and fp32 accumulation.
 * Names and constants are those of the cuBLAS reference. cuBLASLt counts columns first: a row-major
 * matrix is to it the transposed one.
 */
final class CublasLt implements AutoCloseable {
  private static final NativeLibrary LIBRARY =
      NativeLibrary.open(
          List.of(
              "libcublasLt.so.13",
              "libcublasLt.so.12",
              "libcublasLt.so",
              "cublasLt64_13.dll",
              "cublasLt64_12.dll"));

  private static final MethodHandle GET_VERSION = LIBRARY.function("cublasLtGetVersion", "");
  private static final MethodHandle CREATE = LIBRARY.function("cublasLtCreate", "J");
  private static final MethodHandle DESTROY = LIBRARY.function("cublasLtDestroy", "J");
  private static final MethodHandle DESC_CREATE =
      LIBRARY.function("cublasLtMatmulDescCreate", "JII");
  private static final MethodHandle DESC_SET =
      LIBRARY.function("cublasLtMatmulDescSetAttribute", "JIJJ");
  private static final MethodHandle DESC_DESTROY =
      LIBRARY.function("cublasLtMatmulDescDestroy", "J");
  private static final MethodHandle LAYOUT_CREATE =
      LIBRARY.function("cublasLtMatrixLayoutCreate", "JIJJJ");
  private static final MethodHandle LAYOUT_DESTROY =
      LIBRARY.function("cublasLtMatrixLayoutDestroy", "J");
  private static final MethodHandle PREFERENCE_CREATE =
      LIBRARY.function("cublasLtMatmulPreferenceCreate", "J");
  private static final MethodHandle PREFERENCE_SET =
      LIBRARY.function("cublasLtMatmulPreferenceSetAttribute", "JIJJ");
  private static final MethodHandle PREFERENCE_DESTROY =
      LIBRARY.function("cublasLtMatmulPreferenceDestroy", "J");
  private static final MethodHandle HEURISTIC =
      LIBRARY.function("cublasLtMatmulAlgoGetHeuristic", "JJJJJJJIJJ");
  private static final MethodHandle MATMUL = LIBRARY.function("cublasLtMatmul", "JJJJJJJJJJJJJJJJ");

  private static final int COMPUTE_32F = 68;
  private static final int TYPE_32F = 0;
  private static final int TYPE_16F = 2;
  private static final int TYPE_16BF = 14;
  private static final int DESC_TRANSA = 3;
  private static final int DESC_TRANSB = 4;
  private static final int DESC_EPILOGUE = 7;
  private static final int DESC_BIAS_POINTER = 8;
  private static final int EPILOGUE_DEFAULT = 1;
  private static final int EPILOGUE_BIAS = 4;
  private static final int MAX_WORKSPACE_BYTES = 1;
  private static final int REDUCTION_SCHEME_MASK = 3;
  private static final int REDUCTION_IN_COMPUTE_TYPE = 2;

  /** A heuristic's result: an opaque algorithm of 64 bytes, its workspace, a status, padding. */
  private static final int RESULT_BYTES = 96;

  private static final int ALGORITHM_BYTES = 64;

  /** What NVIDIA recommends on Hopper. */
  static final long WORKSPACE_BYTES = 32L << 20;

  private final long handle;
  private final int type;

  CublasLt(boolean bfloat16) {
    type = bfloat16 ? TYPE_16BF : TYPE_16F;
    handle = create("cublasLtCreate", out -> (int) CREATE.invokeExact(out));
    OpenResources.opened();
  }

  static boolean present() {
    return LIBRARY.present();
  }

  static String path() {
    return LIBRARY.path();
  }

  /** 130100 for 13.1.0; an algorithm means something to the version that proposed it. */
  static int version() {
    try {
      return (int) GET_VERSION.invokeExact();
    } catch (Throwable thrown) {
      throw NativeLibrary.unexpected(thrown);
    }
  }

  /**
   * What to compute, without the operands: {@code d [m, n] = op(a) [m, k] · op(b) [k, n] (+ bias
   * [m]) (+ c [m, n])}, all counted columns first.
   *
   * @param transposeA whether a lies there as {@code [k, m]}
   * @param transposeB whether b lies there as {@code [n, k]}
   * @param pitchA elements from one column of a, as it lies there, to the next; likewise b and d
   * @param floatOutput whether c and d are fp32, else 16-bit like the operands
   */
  record Form(
      int m,
      int n,
      int k,
      boolean transposeA,
      boolean transposeB,
      int pitchA,
      int pitchB,
      int pitchD,
      boolean floatOutput,
      boolean bias,
      boolean add) {
    /**
     * {@code y [tokens, out] = x · weightᵀ + bias (+ residual)}: weight first, then x.
     *
     * @param pitch elements from one row of y to the next
     */
    static Form forward(int tokens, int out, int in, int pitch, boolean residual) {
      return new Form(out, tokens, in, true, false, in, in, pitch, false, true, residual);
    }

    /**
     * {@code dX [tokens, in] (+)= dY · weight}: weight first, then dY.
     *
     * @param pitch elements from one row of dY to the next
     */
    static Form inputGradient(int tokens, int out, int in, int pitch, boolean add) {
      return new Form(in, tokens, out, false, false, in, pitch, in, false, false, add);
    }

    /** {@code dWeight [out, in] (+)= dYᵀ · x} in fp32: x first, then dY. */
    static Form weightGradient(int tokens, int out, int in, int pitch, boolean add) {
      return new Form(in, out, tokens, false, true, in, pitch, in, true, false, add);
    }

    /**
     * The form of the products that share this one's measurement. Adding to a weight's gradient or
     * overwriting it is one algorithm: adding to zeros gives the same bits.
     */
    Form about(int size) {
      boolean tokensInside = floatOutput;
      return new Form(
          m,
          tokensInside ? n : size,
          tokensInside ? size : k,
          transposeA,
          transposeB,
          pitchA,
          pitchB,
          pitchD,
          floatOutput,
          bias,
          add && !floatOutput);
    }

    long outputBytes() {
      return (floatOutput ? 4L : 2L) * n * pitchD;
    }
  }

  /** A product's descriptors and algorithm. */
  final class Product implements AutoCloseable {
    private final long description;
    private final long aLayout;
    private final long bLayout;
    private final long dLayout;
    private final boolean bias;
    private final boolean floatOutput;
    private final Arena arena = Arena.ofShared();
    private final MemorySegment scalars;
    private final MemorySegment attribute;
    private final MemorySegment algorithm;

    Product(Form form) {
      scalars = arena.allocateFrom(JAVA_FLOAT, 1.0f, form.add() ? 1.0f : 0.0f);
      attribute = arena.allocate(JAVA_LONG);
      algorithm = arena.allocate(ALGORITHM_BYTES, 8);
      description =
          create(
              "cublasLtMatmulDescCreate",
              out -> (int) DESC_CREATE.invokeExact(out, COMPUTE_32F, TYPE_32F));
      OpenResources.opened();
      bias = form.bias();
      floatOutput = form.floatOutput();
      setInt(DESC_TRANSA, form.transposeA() ? 1 : 0);
      setInt(DESC_TRANSB, form.transposeB() ? 1 : 0);
      setInt(DESC_EPILOGUE, bias ? EPILOGUE_BIAS : EPILOGUE_DEFAULT);
      int m = form.m();
      int n = form.n();
      int k = form.k();
      aLayout = layout(type, form.transposeA() ? k : m, form.transposeA() ? m : k, form.pitchA());
      bLayout = layout(type, form.transposeB() ? n : k, form.transposeB() ? k : n, form.pitchB());
      dLayout = layout(form.floatOutput() ? TYPE_32F : type, m, n, form.pitchD());
    }

    private static long layout(int type, long rows, long columns, long leading) {
      return create(
          "cublasLtMatrixLayoutCreate",
          out -> (int) LAYOUT_CREATE.invokeExact(out, type, rows, columns, leading));
    }

    private void setInt(int id, int value) {
      attribute.set(JAVA_INT, 0, value);
      check(
          "cublasLtMatmulDescSetAttribute",
          () -> (int) DESC_SET.invokeExact(description, id, attribute.address(), 4L));
    }

    /** Up to so many algorithms that can compute it, the library's favourite first. */
    List<byte[]> algorithms(int most) {
      long preference =
          create("cublasLtMatmulPreferenceCreate", out -> (int) PREFERENCE_CREATE.invokeExact(out));
      try (Arena scratch = Arena.ofConfined()) {
        prefer(preference, MAX_WORKSPACE_BYTES, scratch.allocateFrom(JAVA_LONG, WORKSPACE_BYTES));
        if (!floatOutput) {
          // Parts of a sum that are split along the inputs would be added up in 16 bits.
          prefer(
              preference,
              REDUCTION_SCHEME_MASK,
              scratch.allocateFrom(JAVA_INT, REDUCTION_IN_COMPUTE_TYPE));
        }
        MemorySegment results = scratch.allocate((long) most * RESULT_BYTES, 8);
        MemorySegment count = scratch.allocate(JAVA_INT);
        check(
            "cublasLtMatmulAlgoGetHeuristic",
            () ->
                (int)
                    HEURISTIC.invokeExact(
                        handle,
                        description,
                        aLayout,
                        bLayout,
                        dLayout,
                        dLayout,
                        preference,
                        most,
                        results.address(),
                        count.address()));
        List<byte[]> algorithms = new ArrayList<>();
        for (int i = 0; i < count.get(JAVA_INT, 0); i++) {
          MemorySegment result = results.asSlice((long) i * RESULT_BYTES, RESULT_BYTES);
          boolean usable = result.get(JAVA_INT, ALGORITHM_BYTES + 8) == 0;
          if (usable) {
            algorithms.add(result.asSlice(0, ALGORITHM_BYTES).toArray(JAVA_BYTE));
          }
        }
        return algorithms;
      } finally {
        check(
            "cublasLtMatmulPreferenceDestroy",
            () -> (int) PREFERENCE_DESTROY.invokeExact(preference));
      }
    }

    private static void prefer(long preference, int id, MemorySegment value) {
      check(
          "cublasLtMatmulPreferenceSetAttribute",
          () ->
              (int) PREFERENCE_SET.invokeExact(preference, id, value.address(), value.byteSize()));
    }

    /** Chooses the algorithm of the launches from now on. */
    void use(byte[] chosen) {
      MemorySegment.copy(chosen, 0, algorithm, JAVA_BYTE, 0, chosen.length);
    }

    /**
     * Queues the product on the stream.
     *
     * @return a nonzero status where the algorithm cannot compute it
     */
    int launch(CublasProducts.Operands operands, long workspace, long stream) {
      if (bias) {
        attribute.set(JAVA_LONG, 0, operands.bias());
        check(
            "cublasLtMatmulDescSetAttribute",
            () ->
                (int)
                    DESC_SET.invokeExact(description, DESC_BIAS_POINTER, attribute.address(), 8L));
      }
      try {
        return (int)
            MATMUL.invokeExact(
                handle,
                description,
                scalars.address(),
                operands.a(),
                aLayout,
                operands.b(),
                bLayout,
                scalars.address() + Float.BYTES,
                operands.c() == 0 ? operands.d() : operands.c(),
                dLayout,
                operands.d(),
                dLayout,
                algorithm.address(),
                workspace,
                WORKSPACE_BYTES,
                stream);
      } catch (Throwable thrown) {
        throw NativeLibrary.unexpected(thrown);
      }
    }

    @Override
    public void close() {
      for (long layout : new long[] {aLayout, bLayout, dLayout}) {
        check("cublasLtMatrixLayoutDestroy", () -> (int) LAYOUT_DESTROY.invokeExact(layout));
      }
      check("cublasLtMatmulDescDestroy", () -> (int) DESC_DESTROY.invokeExact(description));
      OpenResources.closed();
      arena.close();
    }
  }

  @Override
  public void close() {
    check("cublasLtDestroy", () -> (int) DESTROY.invokeExact(handle));
    OpenResources.closed();
  }

  private interface Call {
    int status() throws Throwable;
  }

  private interface OutCall {
    int status(long out) throws Throwable;
  }

  static void check(String name, int status) {
    if (status != 0) {
      throw new HalveException(
          "%s failed with cuBLAS status %d; check that cuBLASLt and the driver fit each other"
              .formatted(name, status));
    }
  }

  private static void check(String name, Call call) {
    try {
      check(name, call.status());
    } catch (Throwable thrown) {
      throw NativeLibrary.unexpected(thrown);
    }
  }

  private static long create(String name, OutCall call) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment out = arena.allocate(JAVA_LONG);
      check(name, () -> call.status(out.address()));
      return out.get(JAVA_LONG, 0);
    }
  }
}
