package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import dev.halve.engine.DeviceProvider.Finding;
import org.junit.jupiter.api.Test;

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
