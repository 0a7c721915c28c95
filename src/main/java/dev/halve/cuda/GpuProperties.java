package dev.halve.cuda;

/**
 * What a GPU is.
 *
 * @param name {@code NVIDIA H100 80GB HBM3}
 * @param multiprocessors how many run blocks at once
 * @param sharedBytes the most shared memory that one block may ask for
 * @param memoryBytes of device memory
 */
record GpuProperties(
    String name, int major, int minor, int multiprocessors, int sharedBytes, long memoryBytes) {
  static GpuProperties of(int device) {
    return new GpuProperties(
        CudaDriver.deviceName(device),
        CudaDriver.deviceAttribute(CudaDriver.COMPUTE_CAPABILITY_MAJOR, device),
        CudaDriver.deviceAttribute(CudaDriver.COMPUTE_CAPABILITY_MINOR, device),
        CudaDriver.deviceAttribute(CudaDriver.MULTIPROCESSOR_COUNT, device),
        CudaDriver.deviceAttribute(CudaDriver.MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device),
        CudaDriver.deviceMemory(device));
  }

  /** Whether the kernels for Hopper's own instructions run on it. */
  boolean isHopper() {
    return major == 9 && minor == 0;
  }

  String architecture() {
    return KernelCompiler.architecture(major, minor);
  }
}
