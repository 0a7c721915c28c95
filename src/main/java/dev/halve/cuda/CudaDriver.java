package dev.halve.cuda;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import dev.halve.core.HalveException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.SegmentAllocator;
import java.lang.invoke.MethodHandle;
import java.util.List;

/**
 * The functions of the CUDA driver that Halve calls, one method each, statuses turned into errors.
 * The library comes with NVIDIA's driver; nothing of the CUDA toolkit is needed. Names and meanings
 * are those of the CUDA Driver API reference.
 */
final class CudaDriver {
  private static final NativeLibrary LIBRARY =
      NativeLibrary.open(List.of("libcuda.so.1", "nvcuda.dll"));

  private static final MethodHandle INIT = LIBRARY.function("cuInit", "I");
  private static final MethodHandle DRIVER_GET_VERSION =
      LIBRARY.function("cuDriverGetVersion", "J");
  private static final MethodHandle GET_ERROR_NAME = LIBRARY.function("cuGetErrorName", "IJ");
  private static final MethodHandle GET_ERROR_STRING = LIBRARY.function("cuGetErrorString", "IJ");
  private static final MethodHandle DEVICE_GET_COUNT = LIBRARY.function("cuDeviceGetCount", "J");
  private static final MethodHandle DEVICE_GET_NAME = LIBRARY.function("cuDeviceGetName", "JII");
  private static final MethodHandle DEVICE_GET_ATTRIBUTE =
      LIBRARY.function("cuDeviceGetAttribute", "JII");
  private static final MethodHandle DEVICE_TOTAL_MEM =
      LIBRARY.function("cuDeviceTotalMem_v2", "JI");
  private static final MethodHandle PRIMARY_CONTEXT_RETAIN =
      LIBRARY.function("cuDevicePrimaryCtxRetain", "JI");
  private static final MethodHandle PRIMARY_CONTEXT_RELEASE =
      LIBRARY.function("cuDevicePrimaryCtxRelease_v2", "I");
  private static final MethodHandle CONTEXT_SET_CURRENT = LIBRARY.function("cuCtxSetCurrent", "J");
  private static final MethodHandle GET_DEFAULT_POOL =
      LIBRARY.function("cuDeviceGetDefaultMemPool", "JI");
  private static final MethodHandle POOL_SET_ATTRIBUTE =
      LIBRARY.function("cuMemPoolSetAttribute", "JIJ");
  private static final MethodHandle MEM_GET_INFO = LIBRARY.function("cuMemGetInfo_v2", "JJ");
  private static final MethodHandle MEM_ALLOC_ASYNC = LIBRARY.function("cuMemAllocAsync", "JJJ");
  private static final MethodHandle MEM_FREE_ASYNC = LIBRARY.function("cuMemFreeAsync", "JJ");
  private static final MethodHandle MEM_HOST_ALLOC = LIBRARY.function("cuMemHostAlloc", "JJI");
  private static final MethodHandle MEM_FREE_HOST = LIBRARY.function("cuMemFreeHost", "J");
  private static final MethodHandle MEMCPY_TO_DEVICE =
      LIBRARY.function("cuMemcpyHtoDAsync_v2", "JJJJ");
  private static final MethodHandle MEMCPY_TO_HOST =
      LIBRARY.function("cuMemcpyDtoHAsync_v2", "JJJJ");
  private static final MethodHandle MEMCPY_ON_DEVICE =
      LIBRARY.function("cuMemcpyDtoDAsync_v2", "JJJJ");
  private static final MethodHandle MEMSET = LIBRARY.function("cuMemsetD8Async", "JIJJ");
  private static final MethodHandle STREAM_CREATE = LIBRARY.function("cuStreamCreate", "JI");
  private static final MethodHandle STREAM_DESTROY = LIBRARY.function("cuStreamDestroy_v2", "J");
  private static final MethodHandle STREAM_SYNCHRONIZE =
      LIBRARY.function("cuStreamSynchronize", "J");
  private static final MethodHandle STREAM_WAIT_EVENT =
      LIBRARY.function("cuStreamWaitEvent", "JJI");
  private static final MethodHandle STREAM_BEGIN_CAPTURE =
      LIBRARY.function("cuStreamBeginCapture_v2", "JI");
  private static final MethodHandle STREAM_END_CAPTURE =
      LIBRARY.function("cuStreamEndCapture", "JJ");
  private static final MethodHandle GRAPH_INSTANTIATE =
      LIBRARY.function("cuGraphInstantiateWithFlags", "JJJ");
  private static final MethodHandle GRAPH_LAUNCH = LIBRARY.function("cuGraphLaunch", "JJ");
  private static final MethodHandle GRAPH_DESTROY = LIBRARY.function("cuGraphDestroy", "J");
  private static final MethodHandle GRAPH_EXEC_DESTROY =
      LIBRARY.function("cuGraphExecDestroy", "J");
  private static final MethodHandle EVENT_CREATE = LIBRARY.function("cuEventCreate", "JI");
  private static final MethodHandle EVENT_RECORD = LIBRARY.function("cuEventRecord", "JJ");
  private static final MethodHandle EVENT_SYNCHRONIZE = LIBRARY.function("cuEventSynchronize", "J");
  private static final MethodHandle EVENT_ELAPSED_TIME =
      LIBRARY.function("cuEventElapsedTime", "JJJ");
  private static final MethodHandle EVENT_DESTROY = LIBRARY.function("cuEventDestroy_v2", "J");
  private static final MethodHandle MODULE_LOAD_DATA = LIBRARY.function("cuModuleLoadData", "JJ");
  private static final MethodHandle MODULE_UNLOAD = LIBRARY.function("cuModuleUnload", "J");
  private static final MethodHandle MODULE_GET_FUNCTION =
      LIBRARY.function("cuModuleGetFunction", "JJJ");
  private static final MethodHandle FUNCTION_SET_ATTRIBUTE =
      LIBRARY.function("cuFuncSetAttribute", "JII");
  private static final MethodHandle OCCUPANCY =
      LIBRARY.function("cuOccupancyMaxActiveBlocksPerMultiprocessor", "JJIJ");
  private static final MethodHandle LAUNCH_KERNEL = LIBRARY.function("cuLaunchKernelEx", "JJJJ");
  private static final MethodHandle TENSOR_MAP_ENCODE =
      LIBRARY.function("cuTensorMapEncodeTiled", "JIIJJJJJIIII");

  /** Attributes of {@link #deviceAttribute}. */
  static final int MULTIPROCESSOR_COUNT = 16;

  static final int COMPUTE_CAPABILITY_MAJOR = 75;
  static final int COMPUTE_CAPABILITY_MINOR = 76;
  static final int MAX_SHARED_MEMORY_PER_BLOCK_OPTIN = 97;

  /** The newest function that Halve calls came with CUDA 12.0. */
  static final int OLDEST_VERSION = 12_000;

  private static final int OUT_OF_MEMORY = 2;
  private static final int STREAM_NON_BLOCKING = 1;
  private static final int EVENT_NO_TIMING = 2;
  private static final int CAPTURE_THREAD_LOCAL = 1;
  private static final int POOL_RELEASE_THRESHOLD = 4;
  private static final int MAX_DYNAMIC_SHARED_SIZE = 8;

  private CudaDriver() {}

  /** Whether the driver's library is on this machine; without it no other method may be called. */
  static boolean present() {
    return LIBRARY.present();
  }

  /** Loads the driver; a nonzero status where it finds no usable GPU. */
  static int init() {
    try {
      return (int) INIT.invokeExact(0);
    } catch (Throwable thrown) {
      throw NativeLibrary.unexpected(thrown);
    }
  }

  /** The newest CUDA that the driver supports: 12080 is 12.8. */
  static int version() {
    return getInt("cuDriverGetVersion", out -> (int) DRIVER_GET_VERSION.invokeExact(out));
  }

  static int deviceCount() {
    return getInt("cuDeviceGetCount", out -> (int) DEVICE_GET_COUNT.invokeExact(out));
  }

  static String deviceName(int device) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment name = arena.allocate(256);
      check(
          "cuDeviceGetName", () -> (int) DEVICE_GET_NAME.invokeExact(name.address(), 256, device));
      return name.getString(0);
    }
  }

  static int deviceAttribute(int attribute, int device) {
    return getInt(
        "cuDeviceGetAttribute",
        out -> (int) DEVICE_GET_ATTRIBUTE.invokeExact(out, attribute, device));
  }

  static long deviceMemory(int device) {
    return getLong("cuDeviceTotalMem", out -> (int) DEVICE_TOTAL_MEM.invokeExact(out, device));
  }

  static long retainPrimaryContext(int device) {
    return getLong(
        "cuDevicePrimaryCtxRetain", out -> (int) PRIMARY_CONTEXT_RETAIN.invokeExact(out, device));
  }

  static void releasePrimaryContext(int device) {
    check("cuDevicePrimaryCtxRelease", () -> (int) PRIMARY_CONTEXT_RELEASE.invokeExact(device));
  }

  /** Makes the context that of the calling thread. */
  static void setCurrent(long context) {
    check("cuCtxSetCurrent", () -> (int) CONTEXT_SET_CURRENT.invokeExact(context));
  }

  /** Lets the driver's pool keep what is freed, so that allocating again is cheap. */
  static void keepFreedMemory(int device) {
    long pool =
        getLong(
            "cuDeviceGetDefaultMemPool", out -> (int) GET_DEFAULT_POOL.invokeExact(out, device));
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment threshold = arena.allocateFrom(JAVA_LONG, -1L);
      check(
          "cuMemPoolSetAttribute",
          () ->
              (int)
                  POOL_SET_ATTRIBUTE.invokeExact(
                      pool, POOL_RELEASE_THRESHOLD, threshold.address()));
    }
  }

  /** Free and total device memory in bytes. */
  static long[] memoryInfo() {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment info = arena.allocate(JAVA_LONG, 2);
      check(
          "cuMemGetInfo",
          () -> (int) MEM_GET_INFO.invokeExact(info.address(), info.address() + Long.BYTES));
      return info.toArray(JAVA_LONG);
    }
  }

  /**
   * Allocates from the driver's pool, in the order of the stream.
   *
   * @return the address, or 0 where too little is free
   */
  static long allocate(long bytes, long stream) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment address = arena.allocate(JAVA_LONG);
      int status = (int) MEM_ALLOC_ASYNC.invokeExact(address.address(), bytes, stream);
      if (status == OUT_OF_MEMORY) {
        return 0;
      }
      checkStatus("cuMemAllocAsync", status);
      return address.get(JAVA_LONG, 0);
    } catch (Throwable thrown) {
      throw NativeLibrary.unexpected(thrown);
    }
  }

  static void free(long address, long stream) {
    check("cuMemFreeAsync", () -> (int) MEM_FREE_ASYNC.invokeExact(address, stream));
  }

  /** Page-locked host memory, which the device copies from and to without the host's help. */
  static long allocatePinned(long bytes) {
    return getLong("cuMemHostAlloc", out -> (int) MEM_HOST_ALLOC.invokeExact(out, bytes, 0));
  }

  static void freePinned(long address) {
    check("cuMemFreeHost", () -> (int) MEM_FREE_HOST.invokeExact(address));
  }

  static void copyToDevice(long device, long host, long bytes, long stream) {
    check(
        "cuMemcpyHtoDAsync", () -> (int) MEMCPY_TO_DEVICE.invokeExact(device, host, bytes, stream));
  }

  static void copyToHost(long host, long device, long bytes, long stream) {
    check("cuMemcpyDtoHAsync", () -> (int) MEMCPY_TO_HOST.invokeExact(host, device, bytes, stream));
  }

  static void copyOnDevice(long to, long from, long bytes, long stream) {
    check("cuMemcpyDtoDAsync", () -> (int) MEMCPY_ON_DEVICE.invokeExact(to, from, bytes, stream));
  }

  static void fill(long address, byte value, long bytes, long stream) {
    check("cuMemsetD8Async", () -> (int) MEMSET.invokeExact(address, value & 0xFF, bytes, stream));
  }

  static long createStream() {
    return getLong(
        "cuStreamCreate", out -> (int) STREAM_CREATE.invokeExact(out, STREAM_NON_BLOCKING));
  }

  static void destroyStream(long stream) {
    check("cuStreamDestroy", () -> (int) STREAM_DESTROY.invokeExact(stream));
  }

  static void synchronize(long stream) {
    check("cuStreamSynchronize", () -> (int) STREAM_SYNCHRONIZE.invokeExact(stream));
  }

  static void beginCapture(long stream) {
    check(
        "cuStreamBeginCapture",
        () -> (int) STREAM_BEGIN_CAPTURE.invokeExact(stream, CAPTURE_THREAD_LOCAL));
  }

  static long endCapture(long stream) {
    return getLong("cuStreamEndCapture", out -> (int) STREAM_END_CAPTURE.invokeExact(stream, out));
  }

  static long instantiate(long graph) {
    return getLong(
        "cuGraphInstantiate", out -> (int) GRAPH_INSTANTIATE.invokeExact(out, graph, 0L));
  }

  static void launchGraph(long executable, long stream) {
    check("cuGraphLaunch", () -> (int) GRAPH_LAUNCH.invokeExact(executable, stream));
  }

  static void destroyGraph(long graph) {
    check("cuGraphDestroy", () -> (int) GRAPH_DESTROY.invokeExact(graph));
  }

  static void destroyGraphExecutable(long executable) {
    check("cuGraphExecDestroy", () -> (int) GRAPH_EXEC_DESTROY.invokeExact(executable));
  }

  static long createEvent() {
    return getLong("cuEventCreate", out -> (int) EVENT_CREATE.invokeExact(out, 0));
  }

  static void record(long event, long stream) {
    check("cuEventRecord", () -> (int) EVENT_RECORD.invokeExact(event, stream));
  }

  /** An event that orders streams and keeps no time. */
  static long createOrderingEvent() {
    return getLong("cuEventCreate", out -> (int) EVENT_CREATE.invokeExact(out, EVENT_NO_TIMING));
  }

  /** Lets what is queued on the stream from now on wait for the event's last record. */
  static void waitFor(long event, long stream) {
    check("cuStreamWaitEvent", () -> (int) STREAM_WAIT_EVENT.invokeExact(stream, event, 0));
  }

  static void synchronizeEvent(long event) {
    check("cuEventSynchronize", () -> (int) EVENT_SYNCHRONIZE.invokeExact(event));
  }

  /** Milliseconds between two recorded events. */
  static float elapsedMillis(long start, long end) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment millis = arena.allocate(JAVA_FLOAT);
      check(
          "cuEventElapsedTime",
          () -> (int) EVENT_ELAPSED_TIME.invokeExact(millis.address(), start, end));
      return millis.get(JAVA_FLOAT, 0);
    }
  }

  static void destroyEvent(long event) {
    check("cuEventDestroy", () -> (int) EVENT_DESTROY.invokeExact(event));
  }

  static long loadModule(byte[] cubin) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment image = arena.allocateFrom(JAVA_BYTE, cubin);
      return getLong(
          "cuModuleLoadData", out -> (int) MODULE_LOAD_DATA.invokeExact(out, image.address()));
    }
  }

  static void unloadModule(long module) {
    check("cuModuleUnload", () -> (int) MODULE_UNLOAD.invokeExact(module));
  }

  static long function(long module, String name) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment text = arena.allocateFrom(name);
      return getLong(
          "cuModuleGetFunction",
          out -> (int) MODULE_GET_FUNCTION.invokeExact(out, module, text.address()));
    }
  }

  /** Allows a function more than 48 KB of shared memory a block. */
  static void allowDynamicShared(long function, int bytes) {
    check(
        "cuFuncSetAttribute",
        () -> (int) FUNCTION_SET_ATTRIBUTE.invokeExact(function, MAX_DYNAMIC_SHARED_SIZE, bytes));
  }

  /** How many blocks of a function one multiprocessor holds at once. */
  static int blocksPerMultiprocessor(long function, int threads, long sharedBytes) {
    return getInt(
        "cuOccupancyMaxActiveBlocksPerMultiprocessor",
        out -> (int) OCCUPANCY.invokeExact(out, function, threads, sharedBytes));
  }

  /**
   * @param config a CUlaunchConfig
   * @param parameters an array of pointers to the arguments
   */
  static void launch(MemorySegment config, long function, MemorySegment parameters, String name) {
    int status;
    try {
      status =
          (int) LAUNCH_KERNEL.invokeExact(config.address(), function, parameters.address(), 0L);
    } catch (Throwable thrown) {
      throw NativeLibrary.unexpected(thrown);
    }
    if (status != 0) {
      checkStatus("the launch of " + name, status);
    }
  }

  /** How the copy engine permutes the 16-byte chunks of a row in shared memory. */
  enum Swizzle {
    NONE,
    BYTES_32,
    BYTES_64,
    BYTES_128
  }

  /** The least that L2 fetches from memory for a tile; in the driver's order. */
  enum Promotion {
    NONE,
    BYTES_64,
    BYTES_128,
    BYTES_256
  }

  /**
   * Describes a row-major matrix of 16-bit elements to the copy engine. Elements outside are read
   * as zeros and never written.
   *
   * @param allocator of the 128 bytes of the result, which a kernel takes by value
   * @param rowBytes from one row to the next, a multiple of 16
   * @param boxWidth, boxHeight of the tile that one copy moves
   * @param promotion of what L2 fetches
   */
  static MemorySegment encodeTensorMap(
      SegmentAllocator allocator,
      boolean bfloat16,
      long address,
      long width,
      long height,
      long rowBytes,
      int boxWidth,
      int boxHeight,
      Swizzle swizzle,
      Promotion promotion) {
    final int float16Type = 6;
    final int bfloat16Type = 9;
    MemorySegment map = allocator.allocate(128, 64);
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment sizes = arena.allocateFrom(JAVA_LONG, width, height);
      MemorySegment strides = arena.allocateFrom(JAVA_LONG, rowBytes);
      MemorySegment box = arena.allocateFrom(JAVA_INT, boxWidth, boxHeight);
      MemorySegment steps = arena.allocateFrom(JAVA_INT, 1, 1);
      check(
          "cuTensorMapEncodeTiled",
          () ->
              (int)
                  TENSOR_MAP_ENCODE.invokeExact(
                      map.address(),
                      bfloat16 ? bfloat16Type : float16Type,
                      2,
                      address,
                      sizes.address(),
                      strides.address(),
                      box.address(),
                      steps.address(),
                      0,
                      swizzle.ordinal(),
                      promotion.ordinal(),
                      0));
    }
    return map;
  }

  /** The name of a status, such as CUDA_ERROR_NO_DEVICE. */
  static String errorName(int status) {
    return text(GET_ERROR_NAME, status);
  }

  private static String text(MethodHandle function, int status) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment pointer = arena.allocate(ADDRESS);
      int found = (int) function.invokeExact(status, pointer.address());
      return found == 0
          ? pointer.get(ADDRESS, 0).reinterpret(512).getString(0)
          : "status " + status;
    } catch (Throwable thrown) {
      throw NativeLibrary.unexpected(thrown);
    }
  }

  /**
   * The message for a failed call.
   *
   * @param name of the status, such as CUDA_ERROR_LAUNCH_FAILED
   * @param meaning the driver's own words for it
   */
  static String message(String call, int status, String name, String meaning) {
    String what = "%s failed: %s (%s)".formatted(call, name, meaning);
    return switch (status) {
      case OUT_OF_MEMORY -> what + "; use a smaller batch or model, or free memory on the GPU";
      case 46, 214, 215, 219, 220, 700, 702, 710, 714, 715, 716, 717, 718, 719, 720, 721, 999 ->
          what
              + "; the GPU's context is lost: start the process again, and check the GPU with"
              + " nvidia-smi if it comes back";
      case 200, 209, 222, 223 ->
          what + "; the kernel does not fit the GPU or its driver: update the driver";
      default -> what;
    };
  }

  private static void checkStatus(String call, int status) {
    if (status != 0) {
      throw new HalveException(
          message(call, status, errorName(status), text(GET_ERROR_STRING, status)));
    }
  }

  private interface Call {
    int status() throws Throwable;
  }

  private interface OutCall {
    int status(long out) throws Throwable;
  }

  private static void check(String name, Call call) {
    int status;
    try {
      status = call.status();
    } catch (Throwable thrown) {
      throw NativeLibrary.unexpected(thrown);
    }
    checkStatus(name, status);
  }

  private static int getInt(String name, OutCall call) {
    return (int) getLong(name, call);
  }

  private static long getLong(String name, OutCall call) {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment out = arena.allocate(JAVA_LONG);
      check(name, () -> call.status(out.address()));
      return out.get(JAVA_LONG, 0);
    }
  }
}
