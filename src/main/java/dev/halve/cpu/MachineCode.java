package dev.halve.cpu;

import static java.lang.foreign.ValueLayout.JAVA_LONG;

import dev.halve.cpu.X86Assembler.Register;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.Optional;

/**
 * A function of x86-64 machine code, with AVX2 and FMA, called by the convention of System V. Its
 * memory is written first and then made executable, never both at once, and stays for the life of
 * the process. Where any of that is not to be had, kernels are what the JIT makes of Java.
 */
final class MachineCode {
  /** A system property: {@code false} leaves all kernels to the JIT. */
  static final String SWITCH = "halve.machineCode";

  // Of <sys/mman.h>, the same on Linux and on macOS but for the last.
  private static final int READ = 1;
  private static final int WRITE = 2;
  private static final int EXECUTE = 4;
  private static final int PRIVATE = 2;
  private static final int ANONYMOUS_LINUX = 0x20;
  private static final int ANONYMOUS_MACOS = 0x1000;
  private static final long FAILED = -1;

  /** Of CPUID's leaf 1; Intel's manual, volume 2, table 3-10. */
  private static final int FMA = 1 << 12;

  /**
   * Calls all functions, since each kind of call takes tens of milliseconds to make: the convention
   * has six numbers in registers and the rest in memory, and a function that takes fewer does not
   * look at the others.
   */
  private static final MethodHandle CALL =
      Linker.nativeLinker()
          .downcallHandle(
              FunctionDescriptor.of(
                  JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG, JAVA_LONG,
                  JAVA_LONG, JAVA_LONG));

  private static final String OBSTACLE = findObstacle();

  private final MemorySegment function;

  private MachineCode(MemorySegment function) {
    this.function = function;
  }

  /** Whether it runs here. */
  static boolean supported() {
    return OBSTACLE.isEmpty();
  }

  /** Why it does not run here, in a few words; empty where it does. */
  static String obstacle() {
    return OBSTACLE;
  }

  /** Only where it is {@link #supported}. */
  static MachineCode load(byte[] code) {
    if (!supported()) {
      throw new IllegalStateException("machine code does not run here: " + OBSTACLE);
    }
    return map(code).orElseThrow(() -> new OutOfMemoryError("no memory for machine code"));
  }

  /** What it returns, if anything, of as many of the arguments as it takes. */
  long call(long a, long b, long c, long d, long e, long f, long g, long h) {
    return call(function, a, b, c, d, e, f, g, h);
  }

  private static long call(
      MemorySegment function, long a, long b, long c, long d, long e, long f, long g, long h) {
    try {
      return (long) CALL.invokeExact(function, a, b, c, d, e, f, g, h);
    } catch (Throwable impossible) {
      throw new IllegalStateException(impossible);
    }
  }

  private static String findObstacle() {
    String architecture = System.getProperty("os.arch");
    String system = System.getProperty("os.name");
    if (!Boolean.parseBoolean(System.getProperty(SWITCH, "true"))) {
      return "switched off by -D" + SWITCH + "=false";
    }
    if (!architecture.equals("amd64") && !architecture.equals("x86_64")) {
      return "written for x86-64, found " + architecture;
    }
    if (!system.equals("Linux") && !system.equals("Mac OS X")) {
      return "written for Linux and macOS, found " + system;
    }
    if (VectorMath.LANES < 8) {
      return "the JVM does not use AVX2";
    }
    Optional<MachineCode> features = map(features());
    if (features.isEmpty()) {
      return "the system lets no memory become executable";
    }
    long found = features.get().call(0, 0, 0, 0, 0, 0, 0, 0);
    return (found & FMA) != 0 ? "" : "the processor has no FMA";
  }

  /** A function that returns bits of what the processor has. */
  private static byte[] features() {
    X86Assembler code = new X86Assembler(32);
    code.push(Register.RBX);
    code.move(Register.RAX, 1);
    code.processor();
    code.move(Register.RAX, Register.RCX);
    code.pop(Register.RBX);
    code.ret();
    return code.code();
  }

  private static Optional<MachineCode> map(byte[] code) {
    boolean linux = System.getProperty("os.name").equals("Linux");
    int kind = PRIVATE | (linux ? ANONYMOUS_LINUX : ANONYMOUS_MACOS);
    long at = call(system("mmap"), 0, code.length, READ | WRITE, kind, -1, 0, 0, 0);
    if (at == FAILED) {
      return Optional.empty();
    }
    MemorySegment memory = MemorySegment.ofAddress(at).reinterpret(code.length);
    MemorySegment.copy(code, 0, memory, ValueLayout.JAVA_BYTE, 0, code.length);
    // An int is the lower half of what is returned.
    int failed = (int) call(system("mprotect"), at, code.length, READ | EXECUTE, 0, 0, 0, 0, 0);
    return failed == 0 ? Optional.of(new MachineCode(memory)) : Optional.empty();
  }

  private static MemorySegment system(String function) {
    return Linker.nativeLinker().defaultLookup().findOrThrow(function);
  }
}
