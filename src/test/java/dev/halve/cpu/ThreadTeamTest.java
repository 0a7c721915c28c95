package dev.halve.cpu;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.sun.management.ThreadMXBean;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicIntegerArray;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class ThreadTeamTest {
  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 8})
  void runsEveryPartExactlyOnceAndIsDoneOnReturn(int size) {
    try (ThreadTeam team = new ThreadTeam(size)) {
      for (int round = 0; round < 3_000; round++) {
        int parts = round % 37;
        AtomicIntegerArray ran = new AtomicIntegerArray(parts);
        team.run(
            parts,
            (part, member) -> {
              assertThat(member).isBetween(0, size - 1);
              ran.incrementAndGet(part);
            });
        for (int part = 0; part < parts; part++) {
          assertThat(ran.get(part)).isEqualTo(1);
        }
      }
    }
  }

  @Test
  void wakesParkedMembers() throws InterruptedException {
    try (ThreadTeam team = new ThreadTeam(2)) {
      for (int round = 0; round < 20; round++) {
        Thread.sleep(2); // far longer than members spin
        AtomicInteger present = new AtomicInteger();
        // Each part waits for the other, so this ends only if the parked member wakes up.
        team.run(
            2,
            (part, member) -> {
              present.incrementAndGet();
              while (present.get() < 2) {
                Thread.onSpinWait();
              }
            });
        assertThat(present.get()).isEqualTo(2);
      }
    }
  }

  @Test
  void runsNestedTasksInlineOnTheMemberThatAsked() {
    try (ThreadTeam team = new ThreadTeam(3)) {
      AtomicInteger inner = new AtomicInteger();
      team.run(
          6,
          (part, member) ->
              team.run(
                  5,
                  (innerPart, innerMember) -> {
                    assertThat(innerMember).isEqualTo(member);
                    inner.incrementAndGet();
                  }));
      assertThat(inner.get()).isEqualTo(30);
    }
  }

  @Test
  void passesOnAnExceptionOfAnyPartAndStaysUsable() {
    try (ThreadTeam team = new ThreadTeam(2)) {
      for (int round = 0; round < 200; round++) {
        int bad = round % 9;
        assertThatThrownBy(() ->
                team.run(
                    9,
                    (part, member) -> {
                      if (part == bad) {
                        throw new IllegalArgumentException("part " + part);
                      }
                    }))
            .isInstanceOf(IllegalArgumentException.class)
            .hasMessage("part " + bad);
      }
      AtomicInteger ran = new AtomicInteger();
      team.run(9, (part, member) -> ran.incrementAndGet());
      assertThat(ran.get()).isEqualTo(9);
    }
  }

  @Test
  void servesSeveralCallersOneAfterTheOther() throws InterruptedException {
    try (ThreadTeam team = new ThreadTeam(2)) {
      AtomicInteger total = new AtomicInteger();
      List<Thread> callers = new ArrayList<>();
      for (int i = 0; i < 4; i++) {
        callers.add(
            Thread.ofPlatform()
                .start(() -> {
                  for (int round = 0; round < 500; round++) {
                    team.run(4, (part, member) -> total.incrementAndGet());
                  }
                }));
      }
      for (Thread caller : callers) {
        caller.join();
      }
      assertThat(total.get()).isEqualTo(4 * 500 * 4);
    }
  }

  @Test
  void allocatesNothingPerTask() {
    ThreadMXBean threads = (ThreadMXBean) ManagementFactory.getThreadMXBean();
    AtomicInteger sink = new AtomicInteger();
    ThreadTeam.Task task = (part, member) -> sink.incrementAndGet();
    try (ThreadTeam team = new ThreadTeam(2)) {
      for (int i = 0; i < 20_000; i++) {
        team.run(4, task);
      }
      long before = threads.getCurrentThreadAllocatedBytes();
      for (int i = 0; i < 20_000; i++) {
        team.run(4, task);
      }
      long allocated = threads.getCurrentThreadAllocatedBytes() - before;
      assertThat(allocated).as("bytes for 20,000 tasks").isLessThan(4_096);
    }
  }

  @Test
  void endsItsThreadsOnClose() {
    long before = liveMembers();
    ThreadTeam team = new ThreadTeam(4);
    team.run(4, (part, member) -> {});
    assertThat(liveMembers()).isEqualTo(before + 3);
    team.close();
    assertThat(liveMembers()).isEqualTo(before);
    assertThatThrownBy(() -> team.run(1, (part, member) -> {}))
        .isInstanceOf(IllegalStateException.class);
  }

  private static long liveMembers() {
    return Thread.getAllStackTraces().keySet().stream()
        .filter(thread -> thread.getName().startsWith("halve-cpu-"))
        .count();
  }

  @Test
  void refusesATeamOfNobody() {
    assertThatThrownBy(() -> new ThreadTeam(0)).isInstanceOf(IllegalArgumentException.class);
  }
}
