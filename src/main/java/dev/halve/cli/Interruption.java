package dev.halve.cli;

import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Ctrl-C. A run that can be resumed is asked to stop at its next checkpoint and given some time for
 * it; anything else ends at once. The JVM then ends with the exit code of the signal, 130. Killing
 * the process is safe too, and costs what came after the last checkpoint.
 */
final class Interruption {
  private static final long PATIENCE_SECONDS = 20;

  private final CountDownLatch ended = new CountDownLatch(1);
  private volatile boolean requested;
  private volatile String resumeCommand;

  /** Never asked to stop: for commands run inside a test. */
  static Interruption none() {
    return new Interruption();
  }

  /** Listens to the process's own signals. */
  static Interruption ofProcess(Console console) {
    Interruption interruption = new Interruption();
    Runtime.getRuntime()
        .addShutdownHook(new Thread(() -> interruption.stop(console), "interruption"));
    return interruption;
  }

  private void stop(Console console) {
    if (ended.getCount() == 0) {
      return;
    }
    requested = true;
    if (resumeCommand == null) {
      console.error("halve: interrupted");
      return;
    }
    console.error("halve: stopping after this step");
    try {
      if (!ended.await(PATIENCE_SECONDS, TimeUnit.SECONDS)) {
        console.error("halve: " + advice());
      }
    } catch (InterruptedException hurried) {
      Thread.currentThread().interrupt();
    }
  }

  /** Says that this run can be stopped and gone on with. */
  void resumable(String command) {
    resumeCommand = command;
  }

  boolean requested() {
    return requested;
  }

  /** How to go on with a run that was stopped. */
  String advice() {
    return resumeCommand == null ? "stopped" : "stopped; go on with: " + resumeCommand;
  }

  /** The command is over; returns its exit code. */
  int ended(int exitCode) {
    ended.countDown();
    return exitCode;
  }
}
