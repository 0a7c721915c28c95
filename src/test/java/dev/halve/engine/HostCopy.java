package dev.halve.engine;

import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.function.Function;

/** What a device's tensor holds, row-major. */
public final class HostCopy {
  private HostCopy() {}

  public static float[] floats(Device device, Tensor tensor) {
    return copy(device, tensor, Tensor::toFloatArray);
  }

  public static byte[] bytes(Device device, Tensor tensor) {
    return copy(device, tensor, host -> host.segment().toArray(ValueLayout.JAVA_BYTE));
  }

  private static <T> T copy(Device device, Tensor tensor, Function<Tensor, T> values) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, tensor.dtype(), tensor.shape().extents());
      device.download(tensor, host);
      return values.apply(host);
    }
  }
}
