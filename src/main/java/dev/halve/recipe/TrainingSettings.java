package dev.halve.recipe;

import dev.halve.core.HalveException;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * How to train, under the names of Hugging Face's TrainingArguments. The optimizer is AdamW with
 * betas 0.9 and 0.999 and epsilon 1e-8.
 *
 * @param learningRate at its highest
 * @param schedule of the learning rate after the warm-up
 * @param warmupSteps over which the learning rate grows linearly from 0
 * @param batchSize rows a step
 * @param epochs passes over the data
 * @param maxSteps how many steps to take, whatever the epochs; 0 for as many as the epochs have
 * @param maxGradNorm gradients are clipped to this global L2 norm
 * @param weightDecay of every parameter, as torch.optim.AdamW has it; Hugging Face's Trainer leaves
 *     biases and norms out
 * @param seed of the order of the rows, of dropout, and of a new head
 * @param loggingSteps the loss is averaged and logged over this many steps
 * @param checkpointSeconds at least this much time between two checkpoints; 0 for one after every
 *     step
 * @param gradientAccumulationSteps batches whose mean gradient is one step
 * @param evalSteps the model is scored after so many steps, again and again; 0 for never
 */
@JsonNaming(SnakeCaseStrategy.class)
public record TrainingSettings(
    double learningRate,
    Schedule schedule,
    int warmupSteps,
    int batchSize,
    int epochs,
    int maxSteps,
    double maxGradNorm,
    double weightDecay,
    long seed,
    int loggingSteps,
    int checkpointSeconds,
    int gradientAccumulationSteps,
    int evalSteps) {
  /** A batch a step, scored when it is over. */
  public TrainingSettings(
      double learningRate,
      Schedule schedule,
      int warmupSteps,
      int batchSize,
      int epochs,
      int maxSteps,
      double maxGradNorm,
      double weightDecay,
      long seed,
      int loggingSteps,
      int checkpointSeconds) {
    this(
        learningRate,
        schedule,
        warmupSteps,
        batchSize,
        epochs,
        maxSteps,
        maxGradNorm,
        weightDecay,
        seed,
        loggingSteps,
        checkpointSeconds,
        1,
        0);
  }

  /** The course of the learning rate after the warm-up. */
  public enum Schedule {
    /** Stays. */
    CONSTANT,
    /** Falls linearly to 0 at the last step. */
    LINEAR
  }

  /**
   * The tutorial's: learning rate 5e-5, constant; batch 32, one epoch, clipping at 1, no decay, the
   * loss every 50 steps.
   */
  public static final TrainingSettings DEFAULT =
      new TrainingSettings(5e-5, Schedule.CONSTANT, 0, 32, 1, 0, 1.0, 0, 0, 50, 60);

  public TrainingSettings {
    Settings.require(
        learningRate > 0 && learningRate <= 1, "learning rate", "above 0, at most 1", learningRate);
    Settings.require(warmupSteps >= 0, "warmup steps", "0 or more", warmupSteps);
    Settings.require(batchSize >= 1, "batch size", "1 or more", batchSize);
    Settings.require(epochs >= 1, "epochs", "1 or more", epochs);
    Settings.require(maxSteps >= 0, "max steps", "0 (as the epochs have) or more", maxSteps);
    Settings.require(maxGradNorm > 0, "max grad norm", "above 0", maxGradNorm);
    Settings.require(
        weightDecay >= 0 && weightDecay < 1, "weight decay", "0 or more, below 1", weightDecay);
    Settings.require(loggingSteps >= 1, "logging steps", "1 or more", loggingSteps);
    Settings.require(checkpointSeconds >= 0, "checkpoint seconds", "0 or more", checkpointSeconds);
    Settings.require(
        gradientAccumulationSteps >= 1,
        "gradient accumulation steps",
        "1 or more",
        gradientAccumulationSteps);
    Settings.require(evalSteps >= 0, "eval steps", "0 (never) or more", evalSteps);
    if (schedule == null) {
      throw new HalveException("schedule must be CONSTANT or LINEAR");
    }
  }

  /** The same training, of so many steps. */
  public TrainingSettings withMaxSteps(int steps) {
    return with(steps, seed, checkpointSeconds);
  }

  /** The same training with another seed. */
  TrainingSettings withSeed(long other) {
    return with(maxSteps, other, checkpointSeconds);
  }

  /** The same training with more or fewer checkpoints. */
  TrainingSettings withCheckpointSeconds(int seconds) {
    return with(maxSteps, seed, seconds);
  }

  private TrainingSettings with(int steps, long otherSeed, int seconds) {
    return new TrainingSettings(
        learningRate,
        schedule,
        warmupSteps,
        batchSize,
        epochs,
        steps,
        maxGradNorm,
        weightDecay,
        otherSeed,
        loggingSteps,
        seconds,
        gradientAccumulationSteps,
        evalSteps);
  }
}
