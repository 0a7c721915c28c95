package dev.halve.cpu;

import dev.halve.core.HalveException;
import dev.halve.engine.Device;
import dev.halve.engine.DeviceProvider;
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
    return List.of(cpu, openBlas());
  }

  private static Finding openBlas() {
    try {
      int threads = openblas.blas_get_num_threads();
      return new Finding(
          "openblas",
          true,
          "dense products in F32",
          "",
          Map.of("library_threads", Integer.toString(threads)));
    } catch (UnsatisfiedLinkError | NoClassDefFoundError missing) {
      return new Finding(
          "openblas",
          false,
          String.valueOf(missing.getMessage()),
          "rebuild on this machine, so that Maven fetches its native library",
          Map.of());
    }
  }

  @Override
  public Device open(int index) {
    if (index != 0) {
      throw new HalveException("there is one cpu device, cpu:0; found cpu:" + index);
    }
    return new CpuDevice(Runtime.getRuntime().availableProcessors());
  }
}
