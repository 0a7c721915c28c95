package dev.halve.recipe;

/** Asks to stop once a step is over. */
final class StopAfter implements Progress {
  private final int step;
  private long done;

  StopAfter(int step) {
    this.step = step;
  }

  @Override
  public void advance(long done, double perSecond, String detail) {
    this.done = done;
  }

  @Override
  public boolean stopRequested() {
    return done >= step;
  }
}
