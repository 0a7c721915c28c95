package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.junit.jupiter.api.Assumptions.assumeFalse;

import dev.halve.core.HalveException;
import dev.halve.engine.DeviceProvider.Finding;
import java.io.File;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;

class CudaDiscoveryTest {
  private static GpuProperties gpu(int major, int minor) {
    return new GpuProperties("Some GPU", major, minor, 100, 160 << 10, 1L << 34);
  }

  @Test
  void aGpuThatFitsHasNoProblem() {
    assertThat(CudaDiscovery.problem(gpu(8, 0), 12_000, 12_050)).isEmpty();
    assertThat(CudaDiscovery.problem(gpu(9, 0), 12_000, 12_020)).isEmpty();
    assertThat(CudaDiscovery.problem(gpu(9, 0), 13_000, 13_010)).isEmpty();
    assertThat(CudaDiscovery.problem(gpu(12, 0), 13_000, 12_090)).isEmpty();
  }

  @Test
  void aProblemComesWithItsWayOut() {
    assertThat(CudaDiscovery.problem(gpu(7, 5), 13_000, 13_000))
        .contains("sm_75 is too old")
        .contains("; use --device cpu");
    assertThat(CudaDiscovery.problem(gpu(8, 0), 11_080, 12_000))
        .contains("CUDA 11.8")
        .contains("; install NVIDIA's driver");
    assertThat(CudaDiscovery.problem(gpu(8, 0), 13_000, 0)).contains("; install the CUDA toolkit");
    assertThat(CudaDiscovery.problem(gpu(8, 0), 12_080, 12_040))
        .contains("NVRTC 12.4 is too old for sm_80")
        .contains("; install the CUDA toolkit 12.5 or newer");
    assertThat(CudaDiscovery.problem(gpu(12, 0), 12_080, 12_050)).contains("toolkit 12.8 or newer");
    assertThat(CudaDiscovery.problem(gpu(8, 0), 12_080, 13_010))
        .contains("NVRTC 13.1")
        .contains("CUDA 12.8")
        .contains("; update the driver");
  }

  @Test
  void everythingThatIsMissingIsFoundOutWithoutAnException() {
    for (Finding finding : CudaDiscovery.discover()) {
      assertThat(finding.description()).isNotBlank();
      assertThat(finding.available() || !finding.advice().isBlank())
          .as("%s says what to do", finding.name())
          .isTrue();
    }
  }

  /** A jar with NVRTC, and not a folder anywhere that it could be extracted to. */
  @Test
  @EnabledOnOs(value = OS.LINUX, disabledReason = "nobody may write to /proc, not even root")
  void anNvrtcThatCannotBeExtractedIsOneMoreFinding(@TempDir Path folder) throws Exception {
    assumeFalse(Nvrtc.present(), "NVRTC is there, and nothing has to be extracted");
    Path jar = Files.createDirectories(folder.resolve("org/bytedeco/cuda/linux-x86_64"));
    Files.writeString(jar.resolve("libnvrtc.so.13"), "a library");
    Files.writeString(jar.resolve("libnvrtc-builtins.so.13.1"), "another");
    Process process =
        new ProcessBuilder(
                Path.of(System.getProperty("java.home"), "bin", "java").toString(),
                "--enable-native-access=ALL-UNNAMED",
                "-Dorg.bytedeco.javacpp.cachedir=/proc/none",
                "-Dorg.bytedeco.javacpp.platform=linux-x86_64",
                "-Duser.home=/proc/none",
                "-Djava.io.tmpdir=/proc/none",
                "-cp",
                System.getProperty(
                        "surefire.test.class.path", System.getProperty("java.class.path"))
                    + File.pathSeparator
                    + folder,
                Findings.class.getName())
            .redirectErrorStream(true)
            .start();
    String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor()).as(output).isZero();
    assertThat(output)
        .containsPattern("Finding\\[name=nvrtc, available=false, .*cannot be extracted");
  }

  /** Prints what there is. */
  static final class Findings {
    public static void main(String[] arguments) {
      CudaDiscovery.discover().forEach(System.out::println);
    }
  }

  @Test
  void openingAnAbsentGpuSaysWhy() {
    assertThatThrownBy(() -> new CudaProvider().open(99))
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith("cuda:99: ");
  }

  @Test
  void aLostDeviceSaysToStartAgain() {
    assertThat(
            CudaDriver.message(
                "cuStreamSynchronize", 719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified failure"))
        .contains("cuStreamSynchronize failed: CUDA_ERROR_LAUNCH_FAILED")
        .contains("start the process again")
        .doesNotContain("\n");
    assertThat(CudaDriver.message("cuLaunchKernel", 2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"))
        .contains("smaller batch");
    assertThat(CudaDriver.message("cuModuleLoadData", 209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "none"))
        .contains("update the driver");
  }
}
