package dev.halve.core.io;

import java.nio.file.Path;
import java.util.Map;

/**
 * Where Halve keeps what it can fetch or make again: {@code HALVE_CACHE} if that is set, else
 * {@code halve} in the system's folder for caches ({@code XDG_CACHE_HOME}, on Windows {@code
 * LOCALAPPDATA}, else {@code .cache} of the user's home). Deleting it costs time and nothing else.
 */
public final class CacheFolder {
  private CacheFolder() {}

  /** The part of the cache that one kind of content has to itself; it need not exist yet. */
  public static Path of(String content) {
    return root(System.getenv(), System.getProperty("os.name"), System.getProperty("user.home"))
        .resolve(content);
  }

  static Path root(Map<String, String> environment, String system, String home) {
    String chosen = environment.getOrDefault("HALVE_CACHE", "");
    if (!chosen.isEmpty()) {
      return Path.of(chosen);
    }
    String ofSystem =
        environment.getOrDefault(
            system.startsWith("Windows") ? "LOCALAPPDATA" : "XDG_CACHE_HOME", "");
    // The specification of XDG_CACHE_HOME: a relative path is invalid and to be ignored.
    return !ofSystem.isEmpty() && Path.of(ofSystem).isAbsolute()
        ? Path.of(ofSystem, "halve")
        : Path.of(home, ".cache", "halve");
  }
}
