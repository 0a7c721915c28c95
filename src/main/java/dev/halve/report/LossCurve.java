package dev.halve.report;

import java.util.List;

/**
 * Training loss over time.
 *
 * @param stage {@code fine-tune} or {@code retrain}
 * @param points in the order of their steps
 */
public record LossCurve(String stage, List<Point> points) {
  /**
   * @param step the last step that is in it, counted from 1
   * @param loss the mean since the point before
   */
  public record Point(int step, double loss) {}

  public LossCurve {
    points = List.copyOf(points);
  }
}
