package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.cuda.RandomTensors.Operand;
import dev.halve.engine.AdamW;
import dev.halve.engine.BatchShape;
import dev.halve.engine.DeviceBatch;
import dev.halve.engine.HostCopy;
import dev.halve.engine.Parameter;
import java.lang.foreign.Arena;
import java.util.List;
import org.assertj.core.data.Offset;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/** The optimizer's step by rows against the one that takes every element, bit for bit. */
class SparseGradientsTest {
  private static final int WIDTH = 72;
  private static final int TOKENS = 40;

  @ParameterizedTest
  @ValueSource(ints = {1, 50, 601})
  void rowsWithoutGradientsEndAsADenseStepLeavesThem(int vocabulary) {
    try (CudaDevice device = Gpu.open(DType.BF16);
        CudaPool pool = device.openPool()) {
      RandomTensors tensors = new RandomTensors(device, pool, 5);
      Operand words = tensors.normal(DType.F32, 0, 1, vocabulary, WIDTH);
      Parameter byRows = parameter(device, pool, words);
      Parameter dense = parameter(device, pool, words);
      Tensor dPosition = pool.allocate(DType.F32, TOKENS, WIDTH);
      Tensor dType = pool.allocate(DType.F32, 2, WIDTH);
      Tensor norm = pool.allocate(DType.F32, 1);
      for (int step = 1; step <= 9; step++) {
        Operand dOut = tensors.normal(0, 1, TOKENS, WIDTH);
        // Some words come for the first time late, and some never.
        int known = Math.max(1, vocabulary * Math.min(step, 6) / 12);
        device.embedBackward(
            batch(tensors, known), dOut.tensor(), byRows.gradient(), dPosition, dType);
        copy(device, byRows.gradient(), dense.gradient());
        if (step == 5) {
          Operand moments = tensors.normal(DType.F32, 0, 0.1, vocabulary, WIDTH);
          copy(device, moments.tensor(), byRows.firstMoment());
          copy(device, moments.tensor(), dense.firstMoment());
        }
        double decay = step % 2 == 0 ? 0.1 : 0;
        // Norms differ by rounding: nothing is clipped here.
        AdamW settings = new AdamW(1e-2, 0.9, 0.999, 1e-8, decay, 1e30);
        device.adamW(List.of(byRows), settings, step, norm);
        double found = HostCopy.floats(device, norm)[0];
        device.adamW(List.of(dense), settings, step, norm);
        double expected = HostCopy.floats(device, norm)[0];
        assertThat(found).isCloseTo(expected, Offset.offset(1e-5 * expected));
        assertSame(device, byRows, dense, "step " + step);
      }
    }
  }

  private static Parameter parameter(CudaDevice device, CudaPool pool, Operand words) {
    Tensor value = pool.allocate(DType.F32, words.tensor().shape().extents());
    Tensor compute = pool.allocate(DType.BF16, words.tensor().shape().extents());
    copy(device, words.tensor(), value);
    Parameter parameter = new Parameter("words", value, compute);
    device.round(parameter);
    Parameter.prepareTraining(pool, List.of(parameter));
    return parameter;
  }

  private static DeviceBatch batch(RandomTensors tensors, int known) {
    return new DeviceBatch(
        tensors.integers(known, TOKENS),
        tensors.integers(2, TOKENS),
        null,
        tensors.integers(new int[] {0, 3, TOKENS}),
        tensors.integers(new int[] {TOKENS}),
        null,
        null,
        null,
        new BatchShape(TOKENS, 2, TOKENS - 3));
  }

  private static void assertSame(
      CudaDevice device, Parameter found, Parameter expected, String as) {
    assertThat(HostCopy.bytes(device, found.value()))
        .as(as)
        .isEqualTo(HostCopy.bytes(device, expected.value()));
    assertThat(HostCopy.bytes(device, found.compute()))
        .as(as)
        .isEqualTo(HostCopy.bytes(device, expected.compute()));
    assertThat(HostCopy.bytes(device, found.firstMoment()))
        .as(as)
        .isEqualTo(HostCopy.bytes(device, expected.firstMoment()));
    assertThat(HostCopy.bytes(device, found.secondMoment()))
        .as(as)
        .isEqualTo(HostCopy.bytes(device, expected.secondMoment()));
    assertThat(HostCopy.bytes(device, found.gradient())).as(as).containsOnly(0);
  }

  private static void copy(CudaDevice device, Tensor from, Tensor to) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, from.dtype(), from.shape().extents());
      device.download(from, host);
      device.upload(host, to);
    }
  }
}
