package dev.halve.cpu;

import dev.halve.core.HalveException;
import dev.halve.engine.Device;
import dev.halve.engine.DeviceProvider;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SymbolLookup;
import java.lang.foreign.ValueLayout;
import java.lang.invoke.MethodHandle;
import java.util.List;
import java.util.Map;
import org.bytedeco.openblas.global.openblas;

/** Makes the CPU known as a device. */
public final class CpuProvider implements DeviceProvider {
  @Override
  public String kind() {
    return "cpu";
  }

  @Override
  public List<Finding> discover() {
    requireVectorApi();
    int threads = Runtime.getRuntime().availableProcessors();
    Finding cpu =
        new Finding(
            "cpu",
            true,
            "%d threads, vectors of %d bits (%d floats)"
                .formatted(threads, VectorMath.FLOATS.vectorBitSize(), VectorMath.LANES),
            "",
            Map.of(
                "threads", Integer.toString(threads),
                "vector_bits", Integer.toString(VectorMath.FLOATS.vectorBitSize()),
                "architecture", System.getProperty("os.arch")));
    return List.of(cpu, machineCode(), openBlas());
  }

  private static Finding machineCode() {
    String obstacle = MachineCode.obstacle();
    return new Finding(
        "machine code",
        obstacle.isEmpty(),
        obstacle.isEmpty()
            ? "kernels of products, written for this processor's vectors"
            : obstacle + ": the JIT compiles the kernels of products",
        "",
        Map.of("obstacle", obstacle));
  }

  /** Else the first kernel would end in a NoClassDefFoundError. */
  private static void requireVectorApi() {
    if (ModuleLayer.boot().findModule("jdk.incubator.vector").isEmpty()) {
      throw new HalveException(
          "the Vector API is missing; run Java with --add-modules=jdk.incubator.vector");
    }
  }

  private static Finding openBlas() {
    try {
      openblas.blas_set_num_threads(1);
      String kernels = openBlasKernels();
      return new Finding(
          "openblas",
          true,
          "dense products in F32, by kernels for "
              + kernels
              + (System.getenv("OPENBLAS_CORETYPE") == null ? "" : ", as OPENBLAS_CORETYPE says"),
          "",
          Map.of("kernels", kernels));
    } catch (UnsatisfiedLinkError | NoClassDefFoundError missing) {
      return new Finding(
          "openblas",
          false,
          String.valueOf(missing.getMessage()),
          "rebuild on this machine, so that Maven fetches its native library",
          Map.of());
    }
  }

  /** The processor that OpenBLAS took this one for; OPENBLAS_CORETYPE overrules it. */
  private static String openBlasKernels() {
    return SymbolLookup.loaderLookup()
        .find("openblas_get_corename")
        .map(function -> {
          MethodHandle name =
              Linker.nativeLinker()
                  .downcallHandle(function, FunctionDescriptor.of(ValueLayout.ADDRESS));
          try {
            return ((MemorySegment) name.invokeExact()).reinterpret(64).getString(0);
          } catch (Throwable impossible) {
            throw new IllegalStateException(impossible);
          }
        })
        .orElse("an unnamed processor");
  }

  @Override
  public Device open(int index) {
    requireVectorApi();
    if (index != 0) {
      throw new HalveException("there is one cpu device, cpu:0; found cpu:" + index);
    }
    return new CpuDevice(Runtime.getRuntime().availableProcessors());
  }
}
