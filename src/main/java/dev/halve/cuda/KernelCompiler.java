package dev.halve.cuda;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Turns a kernel source of this jar into machine code for one GPU architecture, through the cache.
 *
 * @param cache of compiled kernels
 * @param architecture {@code sm_90a}
 * @param salt what else must be the same for a cached kernel to be used: driver, GPU
 */
record KernelCompiler(KernelCache cache, String architecture, String salt) {
  private static final Pattern INCLUDE =
      Pattern.compile("^#include \"([^\"]+)\"", Pattern.MULTILINE);

  /** The architecture of a compute capability, with Hopper's own instructions where it has them. */
  static String architecture(int major, int minor) {
    return "sm_" + major + minor + (major == 9 && minor == 0 ? "a" : "");
  }

  /**
   * Machine code of a source under some definitions.
   *
   * @param name {@code layer_norm.cu}
   * @param definitions of compile-time constants, {@code HIDDEN} to {@code 768}
   */
  byte[] compile(String name, Map<String, String> definitions) {
    String source = source(name);
    Map<String, String> headers = headers(source);
    List<String> options = options(definitions);
    String key = KernelCache.key(name, source, headers.toString(), String.join(" ", options), salt);
    return cache
        .read(key)
        .orElseGet(() -> {
          byte[] cubin = Nvrtc.compile(name, source, headers, options);
          cache.write(key, cubin);
          return cubin;
        });
  }

  /** Changes whenever the source or one of its headers does. */
  String sourceHash(String name) {
    String source = source(name);
    return KernelCache.key(source, headers(source).toString());
  }

  private List<String> options(Map<String, String> definitions) {
    List<String> options = new ArrayList<>();
    options.add("--gpu-architecture=" + architecture);
    options.add("--std=c++17");
    // NVRTC takes a lambda's function for the host's otherwise, which nvcc does not.
    options.add("--device-as-default-execution-space");
    new TreeMap<>(definitions).forEach((macro, value) -> options.add("-D" + macro + "=" + value));
    return options;
  }

  /** All headers that a source includes, also through one another. */
  private static Map<String, String> headers(String source) {
    Map<String, String> headers = new TreeMap<>();
    List<String> unread = new ArrayList<>(List.of(source));
    while (!unread.isEmpty()) {
      Matcher include = INCLUDE.matcher(unread.removeLast());
      while (include.find()) {
        if (!headers.containsKey(include.group(1))) {
          headers.put(include.group(1), source(include.group(1)));
          unread.add(headers.get(include.group(1)));
        }
      }
    }
    return headers;
  }

  private static String source(String name) {
    try (InputStream stream = KernelCompiler.class.getResourceAsStream("kernels/" + name)) {
      if (stream == null) {
        throw new IllegalArgumentException("no kernel source " + name + " in this jar");
      }
      return new String(stream.readAllBytes(), StandardCharsets.UTF_8);
    } catch (IOException unreadable) {
      throw new UncheckedIOException(unreadable);
    }
  }
}
