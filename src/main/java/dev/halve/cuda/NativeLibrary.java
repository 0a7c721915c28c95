package dev.halve.cuda;

import static java.lang.foreign.ValueLayout.JAVA_FLOAT;
import static java.lang.foreign.ValueLayout.JAVA_INT;
import static java.lang.foreign.ValueLayout.JAVA_LONG;

import java.io.File;
import java.lang.foreign.Arena;
import java.lang.foreign.FunctionDescriptor;
import java.lang.foreign.Linker;
import java.lang.foreign.MemoryLayout;
import java.lang.foreign.SymbolLookup;
import java.lang.invoke.MethodHandle;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/**
 * A shared library of NVIDIA's, found by name or folder, and its functions as method handles. A
 * library that is absent is an empty lookup, so that the classes that bind it always load.
 */
final class NativeLibrary {
  private final Optional<SymbolLookup> lookup;
  private final String path;

  private NativeLibrary(Optional<SymbolLookup> lookup, String path) {
    this.lookup = lookup;
    this.path = path;
  }

  /**
   * Opens the first of these libraries that loads: by the system's own search, then in the folders
   * of a CUDA toolkit.
   */
  static NativeLibrary open(List<String> names) {
    List<String> candidates = new ArrayList<>(names);
    for (String folder : toolkitFolders()) {
      for (String name : names) {
        if (Files.exists(Path.of(folder, name))) {
          candidates.add(Path.of(folder, name).toString());
        }
      }
    }
    for (String candidate : candidates) {
      try {
        return new NativeLibrary(Optional.of(lookup(candidate)), candidate);
      } catch (IllegalArgumentException notThere) {
        // The next candidate; that none is left is the caller's to report.
      }
    }
    return new NativeLibrary(Optional.empty(), "");
  }

  private static SymbolLookup lookup(String candidate) {
    return candidate.contains(File.separator)
        ? SymbolLookup.libraryLookup(Path.of(candidate), Arena.global())
        : SymbolLookup.libraryLookup(candidate, Arena.global());
  }

  /** The library at a path, or an empty one. */
  static NativeLibrary at(Path file) {
    return open(List.of(file.toString()));
  }

  private static List<String> toolkitFolders() {
    List<String> roots = new ArrayList<>();
    for (String variable : List.of("CUDA_HOME", "CUDA_PATH")) {
      if (System.getenv(variable) != null) {
        roots.add(System.getenv(variable));
      }
    }
    roots.add("/usr/local/cuda");
    List<String> folders = new ArrayList<>();
    for (String root : roots) {
      folders.add(root + "/lib64");
      folders.add(root + "/bin/x64");
      folders.add(root + "/bin");
    }
    return folders;
  }

  boolean present() {
    return lookup.isPresent();
  }

  /** What was loaded, as it was named to the loader. */
  String path() {
    return path;
  }

  /**
   * A function that returns an int, as most do for a status; null where the library lacks it.
   *
   * @param arguments one letter each: I int, J long, size or pointer, F float
   */
  MethodHandle function(String name, String arguments) {
    MemoryLayout[] layouts =
        arguments
            .chars()
            .mapToObj(letter ->
                switch (letter) {
                  case 'I' -> JAVA_INT;
                  case 'J' -> JAVA_LONG;
                  case 'F' -> JAVA_FLOAT;
                  default -> throw new IllegalArgumentException(arguments);
                })
            .toArray(MemoryLayout[]::new);
    return lookup
        .flatMap(symbols -> symbols.find(name))
        .map(symbol ->
            Linker.nativeLinker().downcallHandle(symbol, FunctionDescriptor.of(JAVA_INT, layouts)))
        .orElse(null);
  }

  /** What to throw for what a method handle threw, which declares no type. */
  static RuntimeException unexpected(Throwable thrown) {
    return switch (thrown) {
      case RuntimeException exception -> exception;
      case Error error -> throw error;
      default -> new IllegalStateException(thrown);
    };
  }
}
