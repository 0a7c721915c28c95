package dev.halve.cuda;

import dev.halve.core.HalveException;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.CacheFolder;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Arrays;
import java.util.HexFormat;
import java.util.Optional;

/**
 * Small files on disk under the hash of all that determines their content. An entry carries its own
 * checksum: one that was cut short or changed counts as absent and is written again. Several
 * processes may share a folder, since entries appear whole under their name.
 */
final class KernelCache {
  private static final int CHECKSUM_BYTES = 32;

  private final Path folder;

  KernelCache(Path folder) {
    this.folder = folder;
  }

  /** The user's cache. */
  static KernelCache ofUser() {
    return new KernelCache(CacheFolder.of("cuda"));
  }

  /** The name under which the content that these parts determine is kept. */
  static String key(String... parts) {
    MessageDigest digest = sha256();
    for (String part : parts) {
      byte[] bytes = part.getBytes(StandardCharsets.UTF_8);
      // With its length, so that moving text from one part to the next is another key.
      digest.update(ByteBuffer.allocate(Integer.BYTES).putInt(bytes.length).array());
      digest.update(bytes);
    }
    return HexFormat.of().formatHex(digest.digest());
  }

  /** The entry's content; empty where there is none, or none that is whole. */
  Optional<byte[]> read(String key) {
    byte[] file;
    try {
      file = Files.readAllBytes(folder.resolve(key));
    } catch (IOException absentOrUnreadable) {
      return Optional.empty();
    }
    int length = file.length - CHECKSUM_BYTES;
    if (length < 0) {
      return Optional.empty();
    }
    byte[] content = Arrays.copyOf(file, length);
    byte[] checksum = Arrays.copyOfRange(file, length, file.length);
    return MessageDigest.isEqual(checksum, sha256().digest(content))
        ? Optional.of(content)
        : Optional.empty();
  }

  /** Writes an entry whole, or throws and leaves nothing. */
  void write(String key, byte[] content) {
    byte[] file = Arrays.copyOf(content, content.length + CHECKSUM_BYTES);
    System.arraycopy(sha256().digest(content), 0, file, content.length, CHECKSUM_BYTES);
    try {
      AtomicFile.write(folder.resolve(key), file);
    } catch (HalveException failed) {
      throw new HalveException(
          "%s; set HALVE_CACHE to a folder that can be written".formatted(failed.getMessage()),
          failed);
    }
  }

  private static MessageDigest sha256() {
    try {
      return MessageDigest.getInstance("SHA-256");
    } catch (NoSuchAlgorithmException impossible) {
      throw new IllegalStateException(impossible);
    }
  }
}
