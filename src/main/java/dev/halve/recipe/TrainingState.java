package dev.halve.recipe;

import dev.halve.report.LossCurve;
import java.util.List;

/**
 * How far a training has come, apart from weights and moments.
 *
 * @param step steps taken
 * @param lossSum of the steps since the last point of the curve
 * @param loss the curve so far
 * @param scores so far
 */
public record TrainingState(
    int step, float lossSum, List<LossCurve.Point> loss, List<LossCurve.ScorePoint> scores) {
  public static final TrainingState START = new TrainingState(0, 0, List.of(), List.of());

  public TrainingState {
    loss = List.copyOf(loss);
    scores = scores == null ? List.of() : List.copyOf(scores);
  }
}
