package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.engine.Device;
import dev.halve.engine.DeviceProvider;
import java.util.List;

/**
 * Makes NVIDIA GPUs known as devices. They compute in fp16; with the system property {@code
 * halve.cuda.dtype} set to {@code bf16}, in bf16.
 */
public final class CudaProvider implements DeviceProvider {
  private static final String DTYPE = "halve.cuda.dtype";

  @Override
  public String kind() {
    return "cuda";
  }

  @Override
  public List<Finding> discover() {
    return CudaDiscovery.discover();
  }

  @Override
  public Device open(int index) {
    String name = System.getProperty(DTYPE, "fp16");
    DType dtype =
        switch (name) {
          case "fp16" -> DType.F16;
          case "bf16" -> DType.BF16;
          default ->
              throw new HalveException(
                  "the system property " + DTYPE + " is '" + name + "'; expected fp16 or bf16");
        };
    return new CudaDevice(index, dtype, KernelCache.ofUser());
  }

  /** In bf16, whatever the property says: fp16's exponents are too few for gradients. */
  @Override
  public Device openForTraining(int index) {
    return new CudaDevice(index, DType.BF16, KernelCache.ofUser());
  }
}
