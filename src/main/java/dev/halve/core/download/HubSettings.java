package dev.halve.core.download;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Set;

/**
 * How to reach the Hugging Face hub, from the variables that its own clients read: {@code
 * HF_ENDPOINT}, {@code HF_HOME}, {@code HF_HUB_CACHE}, {@code HF_TOKEN}, {@code HF_TOKEN_PATH},
 * {@code HF_HUB_DISABLE_IMPLICIT_TOKEN}, {@code HF_HUB_OFFLINE}, and their older names.
 *
 * @param endpoint without a slash at its end
 * @param cache that Python's clients share
 * @param token empty for none
 * @param offline whether only what is in the cache counts
 */
public record HubSettings(String endpoint, Path cache, String token, boolean offline) {
  private static final Set<String> TRUE = Set.of("1", "ON", "YES", "TRUE");

  /** Those of this process. */
  public static HubSettings ofEnvironment() {
    return of(System.getenv(), Path.of(System.getProperty("user.home")));
  }

  static HubSettings of(Map<String, String> environment, Path home) {
    Path ofHuggingFace =
        path(
            first(environment, "HF_HOME"),
            home,
            path(first(environment, "XDG_CACHE_HOME"), home, home.resolve(".cache"))
                .resolve("huggingface"));
    Path cache =
        path(
            first(environment, "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"),
            home,
            ofHuggingFace.resolve("hub"));
    Path tokenFile =
        path(first(environment, "HF_TOKEN_PATH"), home, ofHuggingFace.resolve("token"));
    String endpoint = first(environment, "HF_ENDPOINT");
    return new HubSettings(
        endpoint(endpoint.isEmpty() ? "https://huggingface.co" : endpoint),
        cache,
        token(environment, tokenFile),
        isTrue(first(environment, "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")));
  }

  private static String endpoint(String setting) {
    String endpoint = setting.replaceFirst("/+$", "");
    try {
      URI uri = URI.create(endpoint);
      if (uri.getHost() != null && List.of("http", "https").contains(uri.getScheme())) {
        return endpoint;
      }
    } catch (IllegalArgumentException notAnAddress) {
      // Said below.
    }
    throw new HalveException(
        "HF_ENDPOINT is '" + setting + "'; expected an address like https://huggingface.co");
  }

  /** A token is text without spaces; its file ends with a newline where an editor wrote it. */
  private static String token(Map<String, String> environment, Path file) {
    String token = first(environment, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN").strip();
    if (!token.isEmpty()) {
      return token;
    }
    if (isTrue(first(environment, "HF_HUB_DISABLE_IMPLICIT_TOKEN")) || !Files.isRegularFile(file)) {
      return "";
    }
    try {
      return Files.readString(file).strip();
    } catch (IOException unreadable) {
      throw HalveException.of("read", file, unreadable);
    }
  }

  private static Path path(String setting, Path home, Path otherwise) {
    if (setting.isEmpty()) {
      return otherwise;
    }
    return setting.equals("~") || setting.startsWith("~/")
        ? home.resolve(setting.substring(Math.min(2, setting.length())))
        : Path.of(setting);
  }

  private static boolean isTrue(String setting) {
    return TRUE.contains(setting.toUpperCase(Locale.ROOT));
  }

  /** The first variable that is set to something, else nothing. */
  private static String first(Map<String, String> environment, String... names) {
    for (String name : names) {
      String value = environment.getOrDefault(name, "");
      if (!value.isEmpty()) {
        return value;
      }
    }
    return "";
  }
}
