package dev.halve.core.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.time.Duration;
import java.time.Instant;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class AtomicFileTest {
  @TempDir Path folder;

  @Test
  void aFileAndItsFolderAreCreatedAndReplaced() throws IOException {
    Path file = folder.resolve("a/b/results.json");
    AtomicFile.write(file, "first, and longer");
    AtomicFile.write(file, "second");
    assertThat(file).hasContent("second");
    assertThat(listed(file.getParent())).containsExactly("results.json");
  }

  @Test
  void aFailureLeavesTheOldFileAndNothingElse() throws IOException {
    Path file = folder.resolve("model.bin");
    AtomicFile.write(file, "old");
    assertThatThrownBy(() ->
            AtomicFile.write(
                file,
                channel -> {
                  channel.write(ByteBuffer.allocate(1000));
                  throw new IOException("No space left on device");
                }))
        .isInstanceOf(HalveException.class)
        .hasMessage("cannot write " + file + ": No space left on device");
    assertThatThrownBy(() ->
            AtomicFile.write(
                file,
                channel -> {
                  throw new IllegalStateException("computed wrong");
                }))
        .isInstanceOf(IllegalStateException.class);
    assertThat(file).hasContent("old");
    assertThat(listed(folder)).containsExactly("model.bin");
  }

  @Test
  void aFullDiskIsReportedAndLeavesNothing() throws IOException {
    Path full = Path.of("/dev/full");
    Assumptions.assumeTrue(Files.exists(full), "a device that is always full");
    Path file = folder.resolve("model.bin");
    assertThatThrownBy(() ->
            AtomicFile.write(
                file,
                _ -> {
                  // The same write, to a device that is always full.
                  try (var channel =
                      java.nio.channels.FileChannel.open(
                          full, java.nio.file.StandardOpenOption.WRITE)) {
                    AtomicFile.writeFully(channel, ByteBuffer.allocate(10));
                  }
                }))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("model.bin: No space left on device");
    assertThat(listed(folder)).isEmpty();
  }

  @Test
  void whatAKilledWriterLeftGoesWithALaterWrite() throws Exception {
    Process dead = new ProcessBuilder("true").start();
    dead.waitFor();
    long own = ProcessHandle.current().pid();
    Path abandoned = left(".model.bin." + dead.pid() + "-1.tmp", Duration.ofMinutes(5));
    // In a container every run may have the same number.
    Path before = left(".model.bin." + own + "-7.tmp", Duration.ofDays(2));
    // A writer in another container, or on another machine with the same disk.
    Path elsewhere = left(".model.bin." + dead.pid() + "-2.tmp", Duration.ZERO);
    Path alive = left(".model.bin." + own + "-0.tmp", Duration.ZERO);
    Path other = left(".model.bin.notes.tmp", Duration.ofDays(2));
    AtomicFile.write(folder.resolve("model.bin"), "new");
    assertThat(abandoned).doesNotExist();
    assertThat(before).doesNotExist();
    assertThat(elsewhere).exists();
    assertThat(alive).exists();
    assertThat(other).exists();
  }

  private Path left(String name, Duration ago) throws IOException {
    Path file = Files.createFile(folder.resolve(name));
    return Files.setLastModifiedTime(file, FileTime.from(Instant.now().minus(ago)));
  }

  @Test
  void aWriterOfTheSameNumberElsewhereIsNotInTheWay() throws IOException {
    for (int i = 0; i < 2000; i++) {
      left(".model.bin." + ProcessHandle.current().pid() + "-" + i + ".tmp", Duration.ZERO);
    }
    AtomicFile.write(folder.resolve("model.bin"), "new");
    assertThat(folder.resolve("model.bin")).hasContent("new");
  }

  @Test
  void impossibleTargetsAreNamed() throws IOException {
    Path file = Files.writeString(folder.resolve("file"), "in the way");
    for (Path target : List.of(folder, file.resolve("below"), file.resolve("far/below"))) {
      assertThatThrownBy(() -> AtomicFile.write(target, "x"))
          .isInstanceOf(HalveException.class)
          .hasMessageStartingWith("cannot write " + target);
    }
    assertThat(listed(folder)).containsExactly("file");
  }

  private static List<String> listed(Path folder) throws IOException {
    try (Stream<Path> files = Files.list(folder)) {
      return files.map(file -> file.getFileName().toString()).toList();
    }
  }
}
