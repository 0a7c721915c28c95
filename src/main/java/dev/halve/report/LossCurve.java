package dev.halve.report;

import java.util.List;
import java.util.Locale;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * Training loss over time, and scores where the model was scored meanwhile.
 *
 * @param stage {@code fine-tune} or {@code retrain}
 * @param points in the order of their steps
 * @param scores likewise
 */
public record LossCurve(String stage, List<Point> points, List<ScorePoint> scores) {
  /**
   * @param step the last step that is in it, counted from 1
   * @param loss the mean since the point before
   */
  public record Point(int step, double loss) {}

  /**
   * @param step after which it was scored
   * @param exactMatch per cent
   * @param f1 per cent
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record ScorePoint(int step, double exactMatch, double f1) {}

  public LossCurve {
    points = List.copyOf(points);
    // Runs of an earlier version have none.
    scores = scores == null ? List.of() : List.copyOf(scores);
  }

  /** Without scores. */
  public LossCurve(String stage, List<Point> points) {
    this(stage, points, List.of());
  }

  /** {@code stage,step,loss}, one line a point. */
  static String csv(List<LossCurve> curves) {
    StringBuilder csv = new StringBuilder("stage,step,loss\n");
    for (LossCurve curve : curves) {
      for (LossCurve.Point point : curve.points) {
        csv.append(curve.stage()).append(',').append(point.step()).append(',');
        csv.append(String.format(Locale.ROOT, "%.6f", point.loss())).append('\n');
      }
    }
    return csv.toString();
  }
}
