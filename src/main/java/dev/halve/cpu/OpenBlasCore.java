package dev.halve.cpu;

import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import jdk.incubator.vector.FloatVector;

/**
 * Which of its kernels OpenBLAS takes. It goes by a list of known processors, and one that is newer
 * than the list gets its AVX2 kernels even where AVX-512 would be almost twice as fast (Zen 5 with
 * 0.3.31: 105 against 190 GFLOP/s a core). Must run before the library is loaded.
 */
final class OpenBlasCore {
  private static final String VARIABLE = "OPENBLAS_CORETYPE";

  private OpenBlasCore() {}

  /** Names the core type in the environment if OpenBLAS is known to miss it. */
  static void choose() {
    if (System.getenv(VARIABLE) == null
        && FloatVector.SPECIES_PREFERRED.vectorBitSize() == 512
        && vendor().equals("AuthenticAMD")) {
      setEnvironment(VARIABLE, "SkylakeX");
    }
  }

  private static String vendor() {
    try (var lines = Files.lines(Path.of("/proc/cpuinfo"))) {
      return lines
          .filter(line -> line.startsWith("vendor_id"))
          .findFirst()
          .map(line -> line.substring(line.indexOf(':') + 1).strip())
          .orElse("");
    } catch (IOException unknown) {
      return "";
    }
  }

  /** The C library's own, since the library reads it with {@code getenv}. */
  private static void setEnvironment(String name, String value) {
    Linker linker = Linker.nativeLinker();
    MemorySegment setenv = linker.defaultLookup().find("setenv").orElse(null);
    if (setenv == null) {
      return;
    }
    FunctionDescriptor type =
        FunctionDescriptor.of(
            ValueLayout.JAVA_INT, ValueLayout.ADDRESS, ValueLayout.ADDRESS, ValueLayout.JAVA_INT);
    try (Arena arena = Arena.ofConfined()) {
      int failed =
          (int)
              linker
                  .downcallHandle(setenv, type)
                  .invokeExact(arena.allocateFrom(name), arena.allocateFrom(value), 1);
      assert failed == 0;
    } catch (Throwable e) {
      throw new IllegalStateException("setenv", e);
    }
  }
}
