package dev.halve.core.download;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.HexFormat;

/**
 * What the bytes of a file must add up to.
 *
 * @param hex lower-case hexadecimal digits
 */
public record Checksum(Kind kind, String hex) {
  /** How bytes are added up. */
  public enum Kind {
    SHA_256("SHA-256", 64),
    /** Git's name of a file: SHA-1 of {@code blob}, the length and the bytes. */
    GIT_BLOB("SHA-1", 40);

    private final String algorithm;
    private final int digits;

    Kind(String algorithm, int digits) {
      this.algorithm = algorithm;
      this.digits = digits;
    }
  }

  /**
   * @throws HalveException if the digits are none of the kind
   */
  public Checksum {
    if (!hex.matches("[0-9a-f]{" + kind.digits + "}")) {
      throw new HalveException(
          "a checksum must have %d hexadecimal digits, found '%s'"
              .formatted(kind.digits, hex.length() > 80 ? hex.substring(0, 80) + "..." : hex));
    }
  }

  /** What is wrong with a file's bytes, or null. */
  String difference(Path file) throws IOException {
    String found = of(file);
    return found.equals(hex)
        ? null
        : "its %s is %s, expected %s".formatted(kind.algorithm, found, hex);
  }

  private String of(Path file) throws IOException {
    MessageDigest digest;
    try {
      digest = MessageDigest.getInstance(kind.algorithm);
    } catch (NoSuchAlgorithmException e) {
      throw new AssertionError("every Java has " + kind.algorithm, e);
    }
    if (kind == Kind.GIT_BLOB) {
      digest.update(("blob " + Files.size(file) + "\0").getBytes(StandardCharsets.UTF_8));
    }
    byte[] buffer = new byte[1 << 16];
    try (InputStream stream = Files.newInputStream(file)) {
      for (int count = stream.read(buffer); count >= 0; count = stream.read(buffer)) {
        digest.update(buffer, 0, count);
      }
    }
    return HexFormat.of().formatHex(digest.digest());
  }
}
