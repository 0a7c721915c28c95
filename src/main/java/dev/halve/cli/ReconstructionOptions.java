package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.recipe.ReconstructionSettings;
import picocli.CommandLine.Option;

/** Whether the blocks of a pruned model are brought back to the dense model's. */
final class ReconstructionOptions {
  @Option(
      names = "--reconstruct",
      paramLabel = "STEPS",
      description =
          "Then train attention and MLP of each layer alone, under their masks, for so many steps,"
              + " such as 100, to give what the dense model's give on the calibration text.")
  private Integer steps;

  @Option(
      names = "--reconstruct-learning-rate",
      paramLabel = "RATE",
      description = "AdamW's at the first of those steps; it falls to 0 (default: 0.001).")
  private Double learningRate;

  /** Null where it is not asked for. */
  ReconstructionSettings settings() {
    if (steps == null) {
      if (learningRate != null) {
        throw new HalveException(
            "--reconstruct-learning-rate is for --reconstruct; name its steps");
      }
      return null;
    }
    return new ReconstructionSettings(
        steps, learningRate == null ? ReconstructionSettings.LEARNING_RATE : learningRate);
  }
}
