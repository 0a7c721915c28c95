package dev.halve.cuda;

import static java.lang.foreign.ValueLayout.ADDRESS;
import static java.lang.foreign.ValueLayout.JAVA_BYTE;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.invoke.MethodHandle;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.bytedeco.javacpp.Loader;

/**
 * NVRTC, NVIDIA's run-time compiler: from a CUDA toolkit where there is one, else from the
 * cuda-redist jar on the class path. It needs no GPU and no driver.
 */
final class Nvrtc {
  private static final NativeLibrary LIBRARY;

  /** Why it is absent, where it is, and the way out, with "; " between the two. */
  private static final String ABSENCE;

  static {
    NativeLibrary library = installed();
    String absence =
        "the CUDA run-time compiler NVRTC was not found; install the CUDA toolkit (12.5 or newer),"
            + " or build Halve with 'mvn -Pnvrtc package', which brings NVRTC";
    try {
      library = library.present() ? library : bundled();
    } catch (IOException failure) {
      absence =
          "NVRTC cannot be extracted from cuda-redist: %s; let it write 400 MB to %s, or install the CUDA toolkit"
              .formatted(failure.getMessage(), System.getProperty("user.home"));
    }
    LIBRARY = library;
    ABSENCE = absence;
  }

  private static final MethodHandle VERSION = LIBRARY.function("nvrtcVersion", "JJ");
  private static final MethodHandle CREATE = LIBRARY.function("nvrtcCreateProgram", "JJJIJJ");
  private static final MethodHandle COMPILE = LIBRARY.function("nvrtcCompileProgram", "JIJ");
  private static final MethodHandle CUBIN_SIZE = LIBRARY.function("nvrtcGetCUBINSize", "JJ");
  private static final MethodHandle CUBIN = LIBRARY.function("nvrtcGetCUBIN", "JJ");
  private static final MethodHandle LOG_SIZE = LIBRARY.function("nvrtcGetProgramLogSize", "JJ");
  private static final MethodHandle LOG = LIBRARY.function("nvrtcGetProgramLog", "JJ");
  private static final MethodHandle DESTROY = LIBRARY.function("nvrtcDestroyProgram", "J");

  private Nvrtc() {}

  private static NativeLibrary installed() {
    return NativeLibrary.open(
        List.of(
            "libnvrtc.so.13",
            "libnvrtc.so.12",
            "libnvrtc.so",
            "nvrtc64_130_0.dll",
            "nvrtc64_120_0.dll"));
  }

  /** The library inside JavaCPP's cuda-redist, extracted to JavaCPP's cache. */
  private static NativeLibrary bundled() throws IOException {
    String folder = "/org/bytedeco/cuda/" + Loader.getPlatform() + "/";
    // NVRTC loads its builtins from the folder it lies in.
    for (String builtins : List.of("libnvrtc-builtins.so.13.1", "nvrtc-builtins64_131.dll")) {
      Loader.cacheResource(Nvrtc.class, folder + builtins);
    }
    for (String name : List.of("libnvrtc.so.13", "nvrtc64_130_0.dll")) {
      var file = Loader.cacheResource(Nvrtc.class, folder + name);
      if (file != null) {
        return NativeLibrary.at(Path.of(file.getPath()));
      }
    }
    return NativeLibrary.open(List.of());
  }

  static boolean present() {
    return LIBRARY.present();
  }

  /** Why {@link #present} is false and the way out, with "; " between the two. */
  static String absence() {
    return ABSENCE;
  }

  /** Where it was found. */
  static String path() {
    return LIBRARY.path();
  }

  /** Major version times 1000 plus minor version times 10, as the driver counts. */
  static int version() {
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment parts = arena.allocate(JAVA_INT, 2);
      check(
          "nvrtcVersion",
          (int) VERSION.invokeExact(parts.address(), parts.address() + Integer.BYTES));
      return parts.getAtIndex(JAVA_INT, 0) * 1000 + parts.getAtIndex(JAVA_INT, 1) * 10;
    } catch (Throwable thrown) {
      throw NativeLibrary.unexpected(thrown);
    }
  }

  /**
   * Compiles one source to machine code.
   *
   * @param headers by the names that the source includes them by
   * @throws IllegalStateException with the compiler's log if the source is wrong
   */
  static byte[] compile(
      String name, String source, Map<String, String> headers, List<String> options) {
    if (!present()) {
      throw new HalveException(ABSENCE);
    }
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment out = arena.allocate(JAVA_LONG);
      check(
          "nvrtcCreateProgram",
          (int)
              CREATE.invokeExact(
                  out.address(),
                  arena.allocateFrom(source).address(),
                  arena.allocateFrom(name).address(),
                  headers.size(),
                  strings(arena, new ArrayList<>(headers.values())).address(),
                  strings(arena, new ArrayList<>(headers.keySet())).address()));
      long program = out.get(JAVA_LONG, 0);
      try {
        int status =
            (int) COMPILE.invokeExact(program, options.size(), strings(arena, options).address());
        if (status != 0) {
          throw new IllegalStateException(
              "%s does not compile with %s:%n%s"
                  .formatted(name, options, text(arena, program, LOG_SIZE, LOG)));
        }
        return bytes(arena, program, CUBIN_SIZE, CUBIN).toArray(JAVA_BYTE);
      } finally {
        check("nvrtcDestroyProgram", (int) DESTROY.invokeExact(out.address()));
      }
    } catch (Throwable thrown) {
      throw NativeLibrary.unexpected(thrown);
    }
  }

  private static MemorySegment strings(Arena arena, List<String> strings) {
    MemorySegment array = arena.allocate(ADDRESS, Math.max(1, strings.size()));
    for (int i = 0; i < strings.size(); i++) {
      array.setAtIndex(ADDRESS, i, arena.allocateFrom(strings.get(i)));
    }
    return array;
  }

  private static String text(Arena arena, long program, MethodHandle size, MethodHandle content)
      throws Throwable {
    return bytes(arena, program, size, content).getString(0);
  }

  private static MemorySegment bytes(
      Arena arena, long program, MethodHandle size, MethodHandle content) throws Throwable {
    MemorySegment length = arena.allocate(JAVA_LONG);
    check("nvrtcGetSize", (int) size.invokeExact(program, length.address()));
    MemorySegment bytes = arena.allocate(length.get(JAVA_LONG, 0));
    check("nvrtcGetContent", (int) content.invokeExact(program, bytes.address()));
    return bytes;
  }

  private static void check(String call, int status) {
    if (status != 0) {
      throw new HalveException(call + " failed with NVRTC status " + status);
    }
  }
}
