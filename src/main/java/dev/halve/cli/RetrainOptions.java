package dev.halve.cli;

import dev.halve.recipe.TrainingSettings;
import dev.halve.recipe.TrainingSettings.Schedule;
import picocli.CommandLine.Option;

/** Where the training under the mask differs from the first. */
final class RetrainOptions {
  @Option(
      names = "--retrain-learning-rate",
      paramLabel = "RATE",
      description = "The learning rate under the mask, where it is another.")
  private Double learningRate;

  @Option(
      names = "--retrain-schedule",
      paramLabel = "NAME",
      description = "Its course under the mask: constant or linear.")
  private Schedule schedule;

  @Option(
      names = "--retrain-warmup-steps",
      paramLabel = "STEPS",
      description = "Its warm-up under the mask.")
  private Integer warmupSteps;

  @Option(
      names = "--retrain-epochs",
      paramLabel = "N",
      description = "Passes over the training questions under the mask.")
  private Integer epochs;

  TrainingSettings over(TrainingSettings base) {
    return new TrainingSettings(
        learningRate == null ? base.learningRate() : learningRate,
        schedule == null ? base.schedule() : schedule,
        warmupSteps == null ? base.warmupSteps() : warmupSteps,
        base.batchSize(),
        epochs == null ? base.epochs() : epochs,
        base.maxSteps(),
        base.maxGradNorm(),
        base.weightDecay(),
        base.seed(),
        base.loggingSteps(),
        base.checkpointSeconds(),
        base.gradientAccumulationSteps(),
        base.evalSteps());
  }
}
