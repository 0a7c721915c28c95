package dev.halve.recipe;

import dev.halve.core.HalveException;
import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * Everything that a run of the whole recipe is told.
 *
 * @param preset the name of the settings it started from
 * @param model a built-in model's name, or a Hugging Face folder
 * @param device {@code cpu}, {@code cuda:0}, {@code auto}
 * @param fineTune the first training
 * @param retrain the second, under the mask
 * @param recovery what is done beside it
 */
@JsonNaming(SnakeCaseStrategy.class)
public record TutorialSettings(
    String preset,
    String model,
    String device,
    DataSettings data,
    FeatureSettings features,
    TrainingSettings fineTune,
    PruningSettings pruning,
    TrainingSettings retrain,
    RecoverySettings recovery,
    EvaluationSettings evaluation,
    LatencySettings latency) {
  /** With a plain recovery. */
  public TutorialSettings(
      String preset,
      String model,
      String device,
      DataSettings data,
      FeatureSettings features,
      TrainingSettings fineTune,
      PruningSettings pruning,
      TrainingSettings retrain,
      EvaluationSettings evaluation,
      LatencySettings latency) {
    this(
        preset,
        model,
        device,
        data,
        features,
        fineTune,
        pruning,
        retrain,
        RecoverySettings.PLAIN,
        evaluation,
        latency);
  }

  public TutorialSettings {
    if (recovery.choosesMasks() && !pruning.equals(PruningSettings.SEMI_STRUCTURED)) {
      throw new HalveException(
          "masks are chosen in training for the 2:4 pattern only; leave the pruning options away");
    }
  }

  /**
   * Five minutes on two cores. The generated questions fit into rows of 128 tokens, and the few
   * steps that there is time for ask for small batches and a higher learning rate, which warms up
   * and decays.
   */
  public static final TutorialSettings QUICK =
      new TutorialSettings(
          "quick",
          "all-MiniLM-L6-v2",
          "auto",
          DataSettings.SYNTHETIC,
          new FeatureSettings(128, 0),
          quick(300, 30),
          PruningSettings.SEMI_STRUCTURED,
          quick(200, 20),
          EvaluationSettings.DEFAULT,
          new LatencySettings(List.of(1, 4, 16), 128, 2, 10, 5));

  private static TrainingSettings quick(int steps, int warmupSteps) {
    return new TrainingSettings(
        3e-4, TrainingSettings.Schedule.LINEAR, warmupSteps, 8, 1, steps, 1.0, 0, 0, 10, 60);
  }

  /** The tutorial's own. */
  public static final TutorialSettings FULL =
      new TutorialSettings(
          "full",
          "all-MiniLM-L6-v2",
          "auto",
          DataSettings.SQUAD,
          FeatureSettings.DEFAULT,
          TrainingSettings.DEFAULT,
          PruningSettings.SEMI_STRUCTURED,
          TrainingSettings.DEFAULT,
          EvaluationSettings.DEFAULT,
          LatencySettings.DEFAULT);

  /**
   * @throws HalveException if there is no preset of this name
   */
  public static TutorialSettings preset(String name) {
    return switch (name) {
      case "quick" -> QUICK;
      case "full" -> FULL;
      default -> throw new HalveException("'" + name + "' is no preset; use quick or full");
    };
  }
}
