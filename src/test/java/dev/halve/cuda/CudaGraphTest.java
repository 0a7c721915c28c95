package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.cuda.RandomTensors.Operand;
import dev.halve.engine.AdamW;
import dev.halve.engine.BatchShape;
import dev.halve.engine.HostCopy;
import dev.halve.engine.Replay;
import dev.halve.engine.StepScalars;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** What happens to a device when the work that it records goes wrong. */
class CudaGraphTest {
  private CudaDevice device;
  private CudaPool pool;

  @BeforeEach
  void open() {
    device = Gpu.open(DType.F16);
    pool = device.openPool();
  }

  @AfterEach
  void close() {
    if (device != null) {
      pool.close();
      device.close();
    }
  }

  @Test
  void aFailureInRecordedWorkComesOutAsItWas() {
    IllegalArgumentException failure = new IllegalArgumentException("of the work");
    assertThatThrownBy(() -> record(() -> throwIt(failure))).isSameAs(failure);
    assertStillWorks();
  }

  /** The driver gives such a recording up, which is one more failure. */
  @Test
  void waitingInRecordedWorkIsTheFailureThatIsNamed() {
    assertThatThrownBy(() -> record(() -> device.context().synchronize()))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("cuStreamSynchronize failed");
    assertStillWorks();
  }

  @Test
  void recordedWorkMayNotAskForMemory() {
    assertThatThrownBy(() -> record(() -> pool.allocate(1000)))
        .isInstanceOf(IllegalStateException.class)
        .hasMessageContaining("recorded work");
    assertStillWorks();
  }

  /** Though it fills the other buffer than the first time, and takes its largest part last. */
  @Test
  void sumsThatWereMadeOnceAreRecordedWithoutAskingForMemory() {
    ColumnSums sums = device.training().sums();
    long outputs = pool.allocate(4L << 10);
    Runnable work =
        () -> {
          for (int width : new int[] {16, 64, 1024}) {
            sums.addPartials(sums.partial(8, width), width, width, 8, outputs);
          }
          sums.launch(device.context().stream());
        };
    work.run();
    record(work);
    assertStillWorks();
  }

  @Test
  void aStepThatFailsLeavesNoSumsBehind() {
    Tensor output = pool.allocate(DType.F32, 64);
    ColumnSums sums = device.training().sums();
    IllegalArgumentException failure = new IllegalArgumentException("of the step");
    StepScalars scalars = new StepScalars(1, new AdamW(1e-3, 0.9, 0.999, 1e-8, 0, 1), 1);
    try (Replay replay = device.openReplay()) {
      assertThatThrownBy(() ->
              replay.run(
                  new BatchShape(64, 1, 64),
                  scalars,
                  () -> {
                    long partial = sums.partial(1, 64);
                    CudaDriver.fill(partial, (byte) 0x3F, 4 * 64, device.context().stream());
                    sums.addPartials(partial, 64, 64, 1, CudaDevice.address(output));
                    throwIt(failure);
                  }))
          .isSameAs(failure);
      assertThat(HostCopy.floats(device, output)).containsOnly(0);
    }
  }

  private void record(Runnable work) {
    CudaGraph.record(device.context(), work).close();
  }

  private static void throwIt(RuntimeException failure) {
    throw failure;
  }

  private void assertStillWorks() {
    Operand x = new RandomTensors(device, pool, 3).normal(0, 1, 1000);
    Poisoned wide = new Poisoned(device, pool, DType.F32, 1000);
    Runnable work = () -> device.operations().toFloat(wide.address(), x.address(), 1000);
    work.run();
    device.zero(wide.tensor());
    try (CudaGraph graph = CudaGraph.record(device.context(), work)) {
      assertThat(HostCopy.floats(device, wide.tensor())).containsOnly(0);
      graph.launch(device.context());
      assertThat(wide.read()).isEqualTo(x.values());
    }
  }
}
