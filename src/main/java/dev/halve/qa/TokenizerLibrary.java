package dev.halve.qa;

import ai.djl.huggingface.tokenizers.jni.TokenizersLibrary;
import dev.halve.core.HalveException;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.CacheFolder;
import java.io.IOException;
import java.io.InputStream;
import java.net.URL;
import java.nio.channels.Channels;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Properties;

/**
 * Hugging Face's tokenizer library, in the build that DJL ships in its jar, unpacked once into the
 * user's cache. DJL's own loader is passed by: it starts the CUDA runtime to choose a build, looks
 * for one on the network and reports its use, where the one in the jar is the only one wanted.
 */
final class TokenizerLibrary {
  private static final String RESOURCES = "/native/lib/";

  private static boolean loaded;

  private TokenizerLibrary() {}

  /**
   * Loads it on first use.
   *
   * @throws HalveException if there is no build for this platform, or it cannot be unpacked or
   *     loaded
   */
  static synchronized TokenizersLibrary get() {
    if (!loaded) {
      load();
      loaded = true;
    }
    return TokenizersLibrary.LIB;
  }

  private static void load() {
    String platform = platform(System.getProperty("os.name"), System.getProperty("os.arch"));
    List<String> files = new ArrayList<>();
    if (platform.startsWith("win")) {
      // Each needs the ones before it.
      files.addAll(List.of("libwinpthread-1.dll", "libgcc_s_seh-1.dll", "libstdc++-6.dll"));
    }
    files.add(System.mapLibraryName("tokenizers"));
    Path folder = CacheFolder.of("tokenizers").resolve(version()).resolve(platform);
    try {
      for (String file : files) {
        System.load(unpack(RESOURCES + platform + "/cpu/" + file, folder.resolve(file)).toString());
      }
    } catch (IOException | UnsatisfiedLinkError e) {
      throw new HalveException(
          "cannot load the tokenizer library from %s: %s; set HALVE_CACHE to a folder on a disk that allows programs"
              .formatted(folder, e.getMessage()),
          e);
    }
  }

  static String platform(String system, String architecture) {
    String name = system.toLowerCase(Locale.ROOT);
    String os = name.startsWith("win") ? "win" : name.startsWith("mac") ? "osx" : "linux";
    return os + (architecture.equals("aarch64") ? "-aarch64" : "-x86_64");
  }

  private static String version() {
    try (InputStream stream =
        TokenizerLibrary.class.getResourceAsStream(RESOURCES + "tokenizers.properties")) {
      Properties properties = new Properties();
      properties.load(stream);
      return properties.getProperty("version");
    } catch (IOException e) {
      throw new HalveException("cannot read the tokenizer library: " + e.getMessage(), e);
    }
  }

  /** A file of the same length is the same build: the folder's name has the version. */
  private static Path unpack(String resource, Path target) throws IOException {
    URL url = TokenizerLibrary.class.getResource(resource);
    if (url == null) {
      throw new HalveException(
          "there is no tokenizer library for %s on %s; run on Linux, Windows or macOS (arm64)"
              .formatted(System.getProperty("os.name"), System.getProperty("os.arch")));
    }
    Path absolute = target.toAbsolutePath();
    long length = url.openConnection().getContentLengthLong();
    if (Files.exists(absolute) && Files.size(absolute) == length) {
      return absolute;
    }
    try {
      AtomicFile.write(
          absolute,
          channel -> {
            try (InputStream stream = url.openStream()) {
              stream.transferTo(Channels.newOutputStream(channel));
            }
          });
    } catch (HalveException e) {
      throw new HalveException(
          e.getMessage() + "; set HALVE_CACHE to a folder that can be written", e);
    }
    return absolute;
  }
}
