package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.HalveException;
import java.nio.file.Path;
import java.util.List;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Stream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class FolderLockTest {
  private static final int RUNS = 8;
  private static final int TRIES = 2_000;

  @TempDir Path folder;

  /** Each run begins as another ends, so that one opens the file that the other deletes. */
  @Test
  void ofManyRunsOneIsIn() throws Exception {
    AtomicInteger inside = new AtomicInteger();
    AtomicInteger most = new AtomicInteger();
    Callable<Integer> run =
        () -> {
          int entered = 0;
          for (int i = 0; i < TRIES; i++) {
            try (FolderLock _ = FolderLock.of(folder)) {
              most.accumulateAndGet(inside.incrementAndGet(), Math::max);
              entered++;
              Thread.yield();
              inside.decrementAndGet();
            } catch (HalveException busy) {
              assertThat(busy).hasMessageStartingWith("another run is at work in " + folder);
            }
          }
          return entered;
        };
    int entered = 0;
    try (ExecutorService threads = Executors.newFixedThreadPool(RUNS)) {
      List<Future<Integer>> runs =
          threads.invokeAll(Stream.generate(() -> run).limit(RUNS).toList());
      for (Future<Integer> each : runs) {
        entered += each.get();
      }
    }
    assertThat(entered).isGreaterThan(TRIES / 10);
    assertThat(most).hasValue(1);
    assertThat(folder).isEmptyDirectory();
  }
}
