package dev.halve.recipe;

import dev.halve.core.HalveException;
import java.nio.file.Path;
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
 * @param method by which the dense model is pruned; those that look at activations calibrate on the
 *     training questions
 * @param permute whether channels are first brought into an order in which 2:4 loses less
 * @param reconstruction of the pruned model's blocks, on training questions; null for none
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
    LatencySettings latency,
    PruningMethod method,
    boolean permute,
    ReconstructionSettings reconstruction) {
  /** Pruned by magnitude, with a plain recovery. */
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
        latency,
        PruningMethod.MAGNITUDE,
        false,
        null);
  }

  public TutorialSettings {
    recovery = recovery.withMasks(recovery.masks().withPattern(pruning));
    if (calibrates(method, reconstruction) && !data.hasTrainingFile()) {
      throw new HalveException(
          "%s calibrates on training questions from a file; name it with --train"
              .formatted(method.calibrates() ? method : "reconstruction"));
    }
    if ((permute || reconstruction != null) && recovery.masks().chosen()) {
      throw new HalveException(
          "masks that are chosen in training start from the dense model, not from a %s one; leave"
                  .formatted(permute ? "permuted" : "reconstructed")
              + " one of them out");
    }
  }

  private static boolean calibrates(PruningMethod method, ReconstructionSettings reconstruction) {
    return method.calibrates() || reconstruction != null;
  }

  /**
   * How the dense model is pruned.
   *
   * @param questions the file of training questions; null where they are in none
   */
  PruningPlan plan(Path questions) {
    PruningPlan magnitude = PruningPlan.magnitude(pruning);
    return calibrates(method, reconstruction)
        ? magnitude
            .withCalibration(
                new CalibrationSettings(
                    questions, CalibrationSettings.ROWS, features.maxLength(), fineTune.seed()))
            .with(method, permute)
        : magnitude.with(method, permute);
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
   * The settings that give a pruned model at least its dense one's scores (benchmarks/quality.md):
   * the dense model plainly fine-tuned for three epochs, pruned by SparseGPT, then eight epochs of
   * learning from its answer distributions under the mask. The learning rates are for models of
   * about bge-small's size; larger ones take lower ones.
   */
  public static final TutorialSettings BEST =
      new TutorialSettings(
          "best",
          "bge-small-en-v1.5",
          "auto",
          DataSettings.SQUAD,
          FeatureSettings.DEFAULT,
          new TrainingSettings(
              1.5e-4, TrainingSettings.Schedule.CONSTANT, 0, 32, 3, 0, 1.0, 0, 0, 50, 60),
          PruningSettings.SEMI_STRUCTURED,
          new TrainingSettings(
              3e-4, TrainingSettings.Schedule.LINEAR, 120, 32, 8, 0, 1.0, 0, 0, 50, 60),
          RecoverySettings.DISTILLATION,
          EvaluationSettings.DEFAULT,
          LatencySettings.DEFAULT,
          PruningMethod.SPARSEGPT,
          false,
          null);

  /** The same run with another seed in both trainings. */
  TutorialSettings withSeed(long seed) {
    return new TutorialSettings(
        preset,
        model,
        device,
        data,
        features,
        fineTune.withSeed(seed),
        pruning,
        retrain.withSeed(seed),
        recovery,
        evaluation,
        latency,
        method,
        permute,
        reconstruction);
  }

  /**
   * @throws HalveException if there is no preset of this name
   */
  public static TutorialSettings preset(String name) {
    return switch (name) {
      case "quick" -> QUICK;
      case "full" -> FULL;
      case "best" -> BEST;
      default -> throw new HalveException("'" + name + "' is no preset; use quick, full or best");
    };
  }
}
