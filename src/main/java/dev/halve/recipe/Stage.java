package dev.halve.recipe;

import dev.halve.core.download.Download;
import java.util.function.Function;

/** The part of a run that is going on: times it and tells the listener. */
final class Stage {
  private final Progress progress;
  private final String name;
  private final long started = System.nanoTime();
  private final long startedAt;

  private Stage(Progress progress, String name, long startedAt) {
    this.progress = progress;
    this.name = name;
    this.startedAt = startedAt;
  }

  static Stage begin(Progress progress, String name, long total, String unit) {
    return begin(progress, name, 0, total, unit);
  }

  /**
   * @param done what an earlier run did already
   */
  static Stage begin(Progress progress, String name, long done, long total, String unit) {
    progress.begin(name, total, unit);
    if (done > 0) {
      progress.advance(done, 0, "");
    }
    return new Stage(progress, name, done);
  }

  /**
   * Tells of a download as of a stage, if anything is downloaded.
   *
   * @param name {@code download dev-v1.1.json}
   * @param fetch gives what was fetched, or was there
   * @throws StoppedException if the listener asked for it
   */
  static <T> T download(String name, Function<Download.Listener, T> fetch, Progress progress) {
    Stage[] stage = new Stage[1];
    T fetched =
        fetch.apply((bytes, total) -> {
          if (stage[0] == null) {
            stage[0] = begin(progress, name, Math.max(0, total >> 20), "MiB");
          }
          stage[0].checkStop("the next run goes on where this one stopped");
          stage[0].advance(bytes >> 20, "");
        });
    if (stage[0] != null) {
      stage[0].end();
    }
    return fetched;
  }

  void advance(long done, String detail) {
    progress.advance(done, (done - startedAt) / seconds(), detail);
  }

  /**
   * Throws if the listener wants the run to stop.
   *
   * @param what is lost or kept, as the message says it
   */
  void checkStop(String what) {
    if (progress.stopRequested()) {
      throw new StoppedException(name + " stopped: " + what);
    }
  }

  double seconds() {
    return (System.nanoTime() - started) / 1e9;
  }

  double end() {
    double seconds = seconds();
    progress.end(name, seconds);
    return seconds;
  }
}
