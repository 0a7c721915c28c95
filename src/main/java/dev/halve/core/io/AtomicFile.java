package dev.halve.core.io;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.time.Duration;
import java.time.Instant;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Writes a file all or nothing: into a temporary name beside the target, synced, then renamed over
 * it. A reader, a crash or a full disk sees the old file or the new one. After any failure the
 * temporary file is gone; one that a killed process left goes with a later write of the target.
 */
public final class AtomicFile {
  /** A file that grows has a writer, though it be in another container or on another machine. */
  private static final Duration SILENCE = Duration.ofMinutes(1);

  /** Writes the content of a file from its beginning. */
  @FunctionalInterface
  public interface Content {
    void writeTo(FileChannel channel) throws IOException;
  }

  private AtomicFile() {}

  /**
   * Replaces or creates a file, and its folder where that is missing.
   *
   * @throws HalveException if it cannot be written (no space, no permission), naming the target
   */
  public static void write(Path target, Content content) {
    Path folder = target.toAbsolutePath().getParent();
    if (folder == null || Files.isDirectory(target)) {
      throw new HalveException("cannot write " + target + ": it is a folder");
    }
    String prefix = "." + target.getFileName() + ".";
    // The number of a process is its own in one container only.
    String unique = Long.toUnsignedString(ThreadLocalRandom.current().nextLong());
    Path temporary = folder.resolve(prefix + ProcessHandle.current().pid() + "-" + unique + ".tmp");
    try {
      Files.createDirectories(folder);
      deleteAbandoned(folder, prefix);
      try {
        try (FileChannel channel =
            FileChannel.open(temporary, StandardOpenOption.CREATE_NEW, StandardOpenOption.WRITE)) {
          content.writeTo(channel);
          channel.force(true);
        }
        Files.move(temporary, target, StandardCopyOption.ATOMIC_MOVE);
      } finally {
        Files.deleteIfExists(temporary);
      }
      sync(folder);
    } catch (IOException failure) {
      throw HalveException.of("write", target, failure);
    }
  }

  /** Replaces or creates a file of bytes. */
  public static void write(Path target, byte[] bytes) {
    write(target, channel -> writeFully(channel, ByteBuffer.wrap(bytes)));
  }

  /** Replaces or creates a file of text in UTF-8. */
  public static void write(Path target, String text) {
    write(target, text.getBytes(StandardCharsets.UTF_8));
  }

  /** Writes all that remains in the buffer. */
  static void writeFully(FileChannel channel, ByteBuffer buffer) throws IOException {
    while (buffer.hasRemaining()) {
      channel.write(buffer);
    }
  }

  private static void deleteAbandoned(Path folder, String prefix) throws IOException {
    try (DirectoryStream<Path> files = Files.newDirectoryStream(folder)) {
      for (Path file : files) {
        if (isAbandoned(file, prefix)) {
          Files.deleteIfExists(file);
        }
      }
    }
  }

  private static boolean isAbandoned(Path file, String prefix) {
    String name = file.getFileName().toString();
    if (!name.startsWith(prefix) || !name.endsWith(".tmp")) {
      return false;
    }
    String writer = name.substring(prefix.length(), name.length() - ".tmp".length());
    Instant touched = Instant.ofEpochMilli(file.toFile().lastModified());
    return writer.matches("\\d{1,18}-\\d{1,20}")
        && touched.isBefore(Instant.now().minus(SILENCE))
        && ProcessHandle.of(Long.parseLong(writer.substring(0, writer.indexOf('-'))))
            .filter(process -> isOlder(process, touched))
            .isEmpty();
  }

  /** Whether a process may have touched a file at a time. */
  private static boolean isOlder(ProcessHandle process, Instant time) {
    return process.info().startInstant().map(start -> start.isBefore(time)).orElse(true);
  }

  /** Makes the rename itself durable, where the system lets a folder be opened (not Windows). */
  private static void sync(Path folder) {
    try (FileChannel channel = FileChannel.open(folder, StandardOpenOption.READ)) {
      channel.force(true);
    } catch (IOException unsupported) {
      // The content is safe either way; without this, a power cut may bring the old file back.
      return;
    }
  }
}
