package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import java.nio.file.Files;
import java.nio.file.Path;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class KernelCacheTest {
  @TempDir Path folder;

  @Test
  void whatIsWrittenIsReadBack() {
    KernelCache cache = new KernelCache(folder.resolve("new"));
    String key = KernelCache.key("source", "options");
    assertThat(cache.read(key)).isEmpty();
    cache.write(key, new byte[] {1, 2, 3});
    assertThat(cache.read(key)).hasValue(new byte[] {1, 2, 3});
    cache.write(key, new byte[] {4});
    assertThat(cache.read(key)).hasValue(new byte[] {4});
  }

  @Test
  void aDamagedEntryCountsAsAbsent() throws Exception {
    KernelCache cache = new KernelCache(folder);
    String key = KernelCache.key("source");
    cache.write(key, new byte[1000]);
    Path file = folder.resolve(key);
    byte[] whole = Files.readAllBytes(file);

    byte[] flipped = whole.clone();
    flipped[500] ^= 1;
    Files.write(file, flipped);
    assertThat(cache.read(key)).isEmpty();

    Files.write(file, java.util.Arrays.copyOf(whole, 700));
    assertThat(cache.read(key)).isEmpty();
    Files.write(file, new byte[0]);
    assertThat(cache.read(key)).isEmpty();

    cache.write(key, new byte[1000]);
    assertThat(cache.read(key)).isPresent();
  }

  @Test
  void everyPartOfTheKeyCounts() {
    assertThat(KernelCache.key("ab", "c")).isNotEqualTo(KernelCache.key("a", "bc"));
    assertThat(KernelCache.key("source", "sm_80"))
        .isNotEqualTo(KernelCache.key("source", "sm_90a"));
  }

  @Test
  void aFolderThatCannotBeWrittenIsNamed() throws Exception {
    Path file = Files.createFile(folder.resolve("file"));
    KernelCache cache = new KernelCache(file);
    assertThatThrownBy(() -> cache.write(KernelCache.key("x"), new byte[1]))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining(file.toString())
        .hasMessageContaining("HALVE_CACHE");
  }

  @Test
  void writingLeavesNothingBesideTheEntry() throws Exception {
    KernelCache cache = new KernelCache(folder);
    cache.write(KernelCache.key("a"), new byte[10]);
    try (var files = Files.list(folder)) {
      assertThat(files).hasSize(1);
    }
  }
}
