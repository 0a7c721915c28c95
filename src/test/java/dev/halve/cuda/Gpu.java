package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.engine.DeviceProvider.Finding;
import java.nio.file.Path;
import org.junit.jupiter.api.Assumptions;

/** The first GPU, for tests that need one; without, they are skipped and say why. */
final class Gpu {
  /** In the build's own folder, so that a test leaves nothing behind. */
  static final KernelCache CACHE = new KernelCache(Path.of("target", "kernel-cache"));

  private Gpu() {}

  static CudaDevice open(DType dtype) {
    return open(dtype, true);
  }

  static CudaDevice open(DType dtype, boolean useCublas) {
    Finding first = CudaDiscovery.discover().getFirst();
    if (!first.available()) {
      String reason = "no GPU to test on: " + first.description();
      System.out.println(reason);
      Assumptions.abort(reason);
    }
    return new CudaDevice(0, dtype, CACHE, useCublas);
  }
}
