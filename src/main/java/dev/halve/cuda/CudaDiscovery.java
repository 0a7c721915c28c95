package dev.halve.cuda;

import dev.halve.core.HalveException;
import dev.halve.engine.DeviceProvider.Finding;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** Which GPUs and NVIDIA libraries this machine has, and what to do about those that it lacks. */
final class CudaDiscovery {
  private static final String DRIVER_ADVICE =
      "install NVIDIA's driver, version 525 (CUDA 12.0) or newer";

  private CudaDiscovery() {}

  static List<Finding> discover() {
    List<Finding> findings = new ArrayList<>();
    if (!CudaDriver.present()) {
      findings.add(absent("cuda", "no NVIDIA driver (libcuda.so.1) was found", DRIVER_ADVICE));
    } else {
      int status = CudaDriver.init();
      if (status != 0) {
        findings.add(
            absent(
                "cuda",
                "the NVIDIA driver finds no usable GPU (" + CudaDriver.errorName(status) + ")",
                "check with nvidia-smi; in a container, pass the GPU through"));
      } else {
        for (int device = 0; device < CudaDriver.deviceCount(); device++) {
          findings.add(gpu(device));
        }
      }
    }
    findings.add(nvrtc());
    findings.add(
        CublasLt.present()
            ? new Finding("cublasLt", true, "found as " + CublasLt.path(), "", Map.of())
            : absent(
                "cublasLt",
                "not found; a plain kernel of Halve's stands in for dense products, slower",
                "install the CUDA toolkit for fast dense products; 2:4 inference does without"));
    return findings;
  }

  private static Finding absent(String name, String description, String advice) {
    return new Finding(name, false, description, advice, Map.of());
  }

  private static Finding gpu(int device) {
    GpuProperties gpu = GpuProperties.of(device);
    Map<String, String> details = new LinkedHashMap<>();
    details.put("name", gpu.name());
    details.put("architecture", gpu.architecture());
    details.put("multiprocessors", String.valueOf(gpu.multiprocessors()));
    details.put("memoryBytes", String.valueOf(gpu.memoryBytes()));
    details.put("driverVersion", String.valueOf(CudaDriver.version()));
    String problem = problem(gpu, CudaDriver.version(), Nvrtc.present() ? Nvrtc.version() : 0);
    String description =
        "%s, %s, %d multiprocessors, %.0f GiB, driver for CUDA %s"
            .formatted(
                gpu.name(),
                gpu.architecture(),
                gpu.multiprocessors(),
                gpu.memoryBytes() / (double) (1L << 30),
                dotted(CudaDriver.version()));
    if (problem.isEmpty()) {
      return new Finding("cuda:" + device, true, description, "", details);
    }
    return absent("cuda:" + device, description + ": " + problem, details);
  }

  /**
   * @param problem and the way out, with "; " between the two
   */
  private static Finding absent(String name, String problem, Map<String, String> details) {
    int semicolon = problem.indexOf("; ");
    return new Finding(
        name, false, problem.substring(0, semicolon), problem.substring(semicolon + 2), details);
  }

  private static Finding nvrtc() {
    return Nvrtc.present()
        ? new Finding(
            "nvrtc",
            true,
            "NVRTC %s, found as %s".formatted(dotted(Nvrtc.version()), Nvrtc.path()),
            "",
            Map.of("version", String.valueOf(Nvrtc.version())))
        : absent("nvrtc", Nvrtc.absence(), Map.of());
  }

  /**
   * Why a GPU cannot be used and the way out, with "; " between the two; empty where it can.
   *
   * @param driver the newest CUDA the driver supports, 12080 for 12.8
   * @param nvrtc the compiler's version, 0 where there is none
   */
  static String problem(GpuProperties gpu, int driver, int nvrtc) {
    if (gpu.major() < 8) {
      return ("sm_%d%d is too old, Halve's kernels need sm_80 (Ampere) or newer"
              + "; use --device cpu on this machine")
          .formatted(gpu.major(), gpu.minor());
    }
    if (driver < CudaDriver.OLDEST_VERSION) {
      return "the driver supports CUDA %s at most; %s".formatted(dotted(driver), DRIVER_ADVICE);
    }
    if (nvrtc == 0) {
      return Nvrtc.absence();
    }
    if (nvrtc < oldestNvrtc(gpu)) {
      return "NVRTC %s is too old for %s; install the CUDA toolkit %s or newer"
          .formatted(dotted(nvrtc), gpu.architecture(), dotted(oldestNvrtc(gpu)));
    }
    if (nvrtc / 1000 > driver / 1000) {
      return "NVRTC %s makes code that a driver for CUDA %s cannot load; update the driver, or install the CUDA %d toolkit"
          .formatted(dotted(nvrtc), dotted(driver), driver / 1000);
    }
    return "";
  }

  /** By the PTX that the kernels are written in, or since which CUDA there is such a GPU. */
  private static int oldestNvrtc(GpuProperties gpu) {
    if (gpu.major() >= 10) {
      return 12_080;
    }
    return gpu.isHopper() ? 12_020 : 12_050;
  }

  /**
   * @throws HalveException if there is no such GPU or it cannot be used
   */
  static void requireUsable(int index) {
    if (!CudaDriver.present()) {
      throw new HalveException(
          "cuda:" + index + ": no NVIDIA driver was found; " + DRIVER_ADVICE + ", or use cpu");
    }
    int status = CudaDriver.init();
    if (status != 0) {
      throw new HalveException(
          "cuda:%d: the NVIDIA driver finds no usable GPU (%s); check with nvidia-smi, or use cpu"
              .formatted(index, CudaDriver.errorName(status)));
    }
    int count = CudaDriver.deviceCount();
    if (index < 0 || index >= count) {
      throw new HalveException(
          "cuda:%d: this machine has %d GPU%s, from cuda:0"
              .formatted(index, count, count == 1 ? "" : "s"));
    }
    String problem =
        problem(
            GpuProperties.of(index), CudaDriver.version(), Nvrtc.present() ? Nvrtc.version() : 0);
    if (!problem.isEmpty()) {
      throw new HalveException("cuda:" + index + ": " + problem);
    }
  }

  /** {@code 12.8} for 12080. */
  private static String dotted(int version) {
    return version / 1000 + "." + version % 1000 / 10;
  }
}
