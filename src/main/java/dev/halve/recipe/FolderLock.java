package dev.halve.recipe;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.channels.OverlappingFileLockException;
import java.nio.file.DirectoryNotEmptyException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

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
      Files.createDirectories(folder);
      FileChannel channel =
          FileChannel.open(file, StandardOpenOption.CREATE, StandardOpenOption.WRITE);
      if (!locked(channel)) {
        channel.close();
        throw new HalveException(
            "another run is at work in %s; wait for its end, or name another folder"
                .formatted(out));
      }
      return new FolderLock(folder, before, file, channel);
    } catch (IOException failure) {
      throw HalveException.of("write to", out, failure);
    }
  }

  private static boolean locked(FileChannel channel) {
    try {
      FileLock lock = channel.tryLock();
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
      channel.close();
      Files.deleteIfExists(file);
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
