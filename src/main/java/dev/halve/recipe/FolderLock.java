package dev.halve.recipe;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.channels.OverlappingFileLockException;
import java.nio.charset.StandardCharsets;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.concurrent.ThreadLocalRandom;

/**
 * Keeps a second run out of a folder, whose checkpoints and models would otherwise be of both. The
 * system lets go of the lock when the process ends, however it does; where a file system knows no
 * locks there is none.
 */
final class FolderLock implements AutoCloseable {
  private final Path folder;

  /** The deepest folder that was there before. */
  private final Path before;

  private final Path file;
  private final FileChannel channel;

  private FolderLock(Path folder, Path before, Path file, FileChannel channel) {
    this.folder = folder;
    this.before = before;
    this.file = file;
    this.channel = channel;
  }

  /**
   * Makes the folder where it is missing.
   *
   * @throws HalveException if it cannot be written to, or another run is at work there
   */
  static FolderLock of(Path out) {
    Path before = Output.require(out);
    Path folder = out.toAbsolutePath().normalize();
    Path file = folder.resolve(".halve.lock");
    try {
      while (true) {
        Files.createDirectories(folder);
        FileChannel channel =
            FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
        if (!locked(channel)) {
          channel.close();
          throw new HalveException(
              "another run is at work in %s; wait for its end, or name another folder"
                  .formatted(out));
        }
        if (isAt(file, channel)) {
          return new FolderLock(folder, before, file, channel);
        }
        // The run before deleted the file between our opening it and locking it.
        channel.close();
      }
    } catch (IOException failure) {
      throw HalveException.of("write to", out, failure);
    }
  }

  /** Whether the open file is the one of that name: what is written to it is read there. */
  private static boolean isAt(Path file, FileChannel channel) throws IOException {
    String mark = Long.toHexString(ThreadLocalRandom.current().nextLong());
    channel.truncate(0).write(StandardCharsets.US_ASCII.encode(mark));
    try {
      return Files.readString(file).equals(mark);
    } catch (NoSuchFileException deleted) {
      return false;
    }
  }

  private static boolean locked(FileChannel channel) {
    try {
      // Far behind the content, which Windows would let nobody else read.
      FileLock lock = channel.tryLock(1 << 30, 1, false);
      return lock != null;
    } catch (OverlappingFileLockException ours) {
      return false;
    } catch (IOException unsupported) {
      return true;
    }
  }

  /** Lets the next run in; a folder that was made for nothing goes again. */
  @Override
  public void close() {
    try {
      // While it is locked: behind that it may be the next run's.
      try (channel) {
        Files.deleteIfExists(file);
      }
      for (Path made = folder; !made.equals(before); made = made.getParent()) {
        Files.delete(made);
      }
    } catch (DirectoryNotEmptyException used) {
      // The run has left something, as it should.
      return;
    } catch (IOException failure) {
      throw HalveException.of("write to", folder, failure);
    }
  }
}
