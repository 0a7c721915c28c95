package dev.halve.cli;

import dev.halve.recipe.Progress;
import dev.halve.report.Numbers;
import java.time.Duration;
import java.util.Locale;
import java.util.Optional;
import me.tongfei.progressbar.ConsoleProgressBarConsumer;
import me.tongfei.progressbar.ProgressBar;
import me.tongfei.progressbar.ProgressBarBuilder;
import me.tongfei.progressbar.ProgressBarStyle;
import me.tongfei.progressbar.ProgressState;

/**
 * Shows a run on standard error: a bar with rate and time left while a stage takes more than a
 * moment, where a person watches; one line for each stage that took longer when it ends; notes as
 * they come.
 */
final class TerminalProgress implements Progress {
  private static final int WIDTH = 79;

  /** Stages shorter than this come and go unseen. */
  private static final double SHOWN_AFTER_SECONDS = 0.5;

  /** Stages shorter than this leave no line behind. */
  private static final double REPORTED_AFTER_SECONDS = 2;

  private final Console console;
  private final Interruption interruption;
  private ProgressBar bar;
  private String stage;
  private String unit;
  private String detail;
  private long total;
  private long first;
  private long done;
  private long began;
  private volatile double perSecond;

  TerminalProgress(Console console, Interruption interruption) {
    this.console = console;
    this.interruption = interruption;
  }

  @Override
  public void begin(String stage, long total, String unit) {
    this.stage = stage;
    this.total = total;
    this.unit = unit;
    this.detail = "";
    this.first = -1;
    this.done = 0;
    this.perSecond = 0;
    this.began = System.nanoTime();
  }

  @Override
  public void advance(long done, double perSecond, String detail) {
    if (first < 0) {
      first = done;
    }
    this.done = done;
    this.detail = detail;
    this.perSecond = perSecond;
    if (bar == null
        && console.terminal()
        && System.nanoTime() - began >= SHOWN_AFTER_SECONDS * 1e9) {
      show();
    }
    if (bar != null) {
      bar.stepTo(done);
      bar.setExtraMessage(
          (perSecond > 0 ? String.format(Locale.ROOT, " %.1f %s/s", perSecond, unit) : "")
              + (detail.isEmpty() ? "" : ", " + detail));
    }
  }

  private void show() {
    ConsoleProgressBarConsumer consumer = new ConsoleProgressBarConsumer(console.err(), WIDTH);
    bar =
        new ProgressBarBuilder()
            .setTaskName(stage)
            .setInitialMax(total > 0 ? total : -1)
            .setUnit(" " + unit, 1)
            .setStyle(ProgressBarStyle.ASCII)
            .setConsumer(consumer)
            .setMaxRenderedLength(WIDTH)
            .setUpdateIntervalMillis(200)
            .setEtaFunction(this::timeLeft)
            .startsFrom(first, Duration.ofNanos(System.nanoTime() - began))
            .clearDisplayOnFinish()
            .build();
  }

  /** From the rate of late, which the stage knows better than the bar. */
  private Optional<Duration> timeLeft(ProgressState state) {
    double rate = perSecond;
    return state.getMax() > 0 && rate > 0
        ? Optional.of(Duration.ofSeconds(Math.round((state.getMax() - state.getCurrent()) / rate)))
        : Optional.empty();
  }

  @Override
  public void end(String stage, double seconds) {
    hide();
    if (seconds >= REPORTED_AFTER_SECONDS) {
      StringBuilder line = new StringBuilder(stage).append(": ");
      if (done > 0) {
        line.append(done).append(' ').append(unit).append(" in ");
      }
      line.append(Numbers.seconds(seconds));
      if (perSecond > 0) {
        line.append(String.format(Locale.ROOT, ", %.1f %s/s", perSecond, unit));
      }
      if (!detail.isEmpty()) {
        line.append(", ").append(detail);
      }
      console.error(line.toString());
    }
  }

  @Override
  public void note(String line) {
    if (bar == null) {
      console.error(line);
    } else {
      // The bar is on the cursor's line: the note takes it, the bar goes on below.
      bar.pause();
      console.err().printf("\r%-" + WIDTH + "s%n", line);
      bar.resume();
    }
  }

  @Override
  public boolean stopRequested() {
    return interruption.requested();
  }

  /** Takes the bar away, as is due before anything else is written. */
  void hide() {
    if (bar != null) {
      bar.close();
      bar = null;
    }
  }
}
