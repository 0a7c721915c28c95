package dev.halve.core.io;

import static org.assertj.core.api.Assertions.assertThat;

import java.nio.file.Path;
import java.util.Map;
import org.junit.jupiter.api.Test;

class CacheFolderTest {
  @Test
  void isTheUsersChoiceElseTheSystems() {
    assertThat(CacheFolder.root(Map.of(), "Linux", "/home/ada"))
        .isEqualTo(Path.of("/home/ada/.cache/halve"));
    assertThat(CacheFolder.root(Map.of("XDG_CACHE_HOME", "/cache"), "Linux", "/home/ada"))
        .isEqualTo(Path.of("/cache/halve"));
    assertThat(CacheFolder.root(Map.of("XDG_CACHE_HOME", "cache"), "Linux", "/home/ada"))
        .isEqualTo(Path.of("/home/ada/.cache/halve"));
    assertThat(CacheFolder.root(Map.of("LOCALAPPDATA", "/local"), "Windows 11", "/home/ada"))
        .isEqualTo(Path.of("/local/halve"));
    assertThat(
            CacheFolder.root(
                Map.of("HALVE_CACHE", "mine", "XDG_CACHE_HOME", "/cache"), "Linux", "/home/ada"))
        .isEqualTo(Path.of("mine"));
    assertThat(CacheFolder.root(Map.of("HALVE_CACHE", ""), "Mac OS X", "/Users/ada"))
        .isEqualTo(Path.of("/Users/ada/.cache/halve"));
  }
}
