package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.util.Random;

/** Random operands: the host's copy holds exactly the values that went up, already rounded. */
final class RandomTensors {
  private final CudaDevice device;
  private final CudaPool pool;
  private final Random random;

  /** A device tensor and its values. */
  record Operand(Tensor tensor, float[] values) {
    long address() {
      return tensor.segment().address();
    }
  }

  RandomTensors(CudaDevice device, CudaPool pool, long seed) {
    this.device = device;
    this.pool = pool;
    this.random = new Random(seed);
  }

  Random random() {
    return random;
  }

  /** Normal values in the device's compute type. */
  Operand normal(double mean, double deviation, long... extents) {
    return normal(device.computeType(), mean, deviation, extents);
  }

  Operand normal(DType dtype, double mean, double deviation, long... extents) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, dtype, extents);
      for (long i = 0; i < host.elements(); i++) {
        host.setFloat(i, (float) (mean + deviation * random.nextGaussian()));
      }
      return up(host);
    }
  }

  /** Rows as an encoder's residual stream has them: a mean, and a few columns far from it. */
  Operand withOutliers(int rows, int columns) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, device.computeType(), rows, columns);
      for (long i = 0; i < host.elements(); i++) {
        double outlier = i % columns == 3 ? 40 : i % columns == columns / 2 ? -25 : 0;
        host.setFloat(i, (float) (0.5 + outlier + random.nextGaussian()));
      }
      return up(host);
    }
  }

  /** The same with at most two nonzeros in every group of four along the rows. */
  Operand semiStructured(double deviation, int out, int in) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, device.computeType(), out, in);
      for (long group = 0; group < host.elements() / 4; group++) {
        int first = random.nextInt(4);
        int second = (first + 1 + random.nextInt(3)) % 4;
        host.setFloat(4 * group + first, (float) (deviation * random.nextGaussian()));
        host.setFloat(4 * group + second, (float) (deviation * random.nextGaussian()));
      }
      return up(host);
    }
  }

  Tensor integers(int bound, int count) {
    return integers(random.ints(count, 0, bound).toArray());
  }

  Tensor integers(int[] values) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.I32, values.length);
      for (int i = 0; i < values.length; i++) {
        host.segment().setAtIndex(java.lang.foreign.ValueLayout.JAVA_INT, i, values[i]);
      }
      Tensor up = pool.allocate(DType.I32, values.length);
      device.upload(host, up);
      return up;
    }
  }

  private Operand up(Tensor host) {
    Tensor up = pool.allocate(host.dtype(), host.shape().extents());
    device.upload(host, up);
    return new Operand(up, host.toFloatArray());
  }
}
