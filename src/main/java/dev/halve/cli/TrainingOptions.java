package dev.halve.cli;

import dev.halve.recipe.TrainingSettings;
import dev.halve.recipe.TrainingSettings.Schedule;
import picocli.CommandLine.Option;

/** How to train. */
final class TrainingOptions {
  @Option(
      names = "--learning-rate",
      paramLabel = "RATE",
      description = "AdamW's learning rate at its highest.")
  private Double learningRate;

  @Option(
      names = "--schedule",
      paramLabel = "NAME",
      description = "Course of the learning rate after the warm-up: constant or linear.")
  private Schedule schedule;

  @Option(
      names = "--warmup-steps",
      paramLabel = "STEPS",
      description = "Steps over which the learning rate grows from 0.")
  private Integer warmupSteps;

  @Option(names = "--batch-size", paramLabel = "ROWS", description = "Rows a step.")
  private Integer batchSize;

  @Option(names = "--epochs", paramLabel = "N", description = "Passes over the training questions.")
  private Integer epochs;

  @Option(
      names = "--max-steps",
      paramLabel = "STEPS",
      description = "How many steps to take, whatever the epochs; 0 for as many as those have.")
  private Integer maxSteps;

  @Option(
      names = "--max-grad-norm",
      paramLabel = "NORM",
      description = "Gradients are clipped to this global L2 norm.")
  private Double maxGradNorm;

  @Option(
      names = "--weight-decay",
      paramLabel = "DECAY",
      description = "AdamW's weight decay, of biases and norms too.")
  private Double weightDecay;

  @Option(
      names = "--seed",
      paramLabel = "SEED",
      description = "Of the order of the rows, of dropout, and of a new head.")
  private Long seed;

  @Option(
      names = "--logging-steps",
      paramLabel = "STEPS",
      description = "The loss is averaged and logged over this many steps.")
  private Integer loggingSteps;

  @Option(
      names = "--checkpoint-seconds",
      paramLabel = "SECONDS",
      description = "At least this much time between two checkpoints.")
  private Integer checkpointSeconds;

  @Option(
      names = "--gradient-accumulation-steps",
      paramLabel = "BATCHES",
      description = "Batches whose mean gradient is one step.")
  private Integer gradientAccumulationSteps;

  @Option(
      names = "--eval-steps",
      paramLabel = "STEPS",
      description = "Score the model after so many steps, again and again; 0 for never.")
  private Integer evalSteps;

  /** Whether evaluation questions are needed. */
  boolean evaluates() {
    return evalSteps != null && evalSteps > 0;
  }

  TrainingSettings over(TrainingSettings base) {
    return new TrainingSettings(
        learningRate == null ? base.learningRate() : learningRate,
        schedule == null ? base.schedule() : schedule,
        warmupSteps == null ? base.warmupSteps() : warmupSteps,
        batchSize == null ? base.batchSize() : batchSize,
        epochs == null ? base.epochs() : epochs,
        maxSteps == null ? base.maxSteps() : maxSteps,
        maxGradNorm == null ? base.maxGradNorm() : maxGradNorm,
        weightDecay == null ? base.weightDecay() : weightDecay,
        seed == null ? base.seed() : seed,
        loggingSteps == null ? base.loggingSteps() : loggingSteps,
        checkpointSeconds == null ? base.checkpointSeconds() : checkpointSeconds,
        gradientAccumulationSteps == null
            ? base.gradientAccumulationSteps()
            : gradientAccumulationSteps,
        evalSteps == null ? base.evalSteps() : evalSteps);
  }
}
