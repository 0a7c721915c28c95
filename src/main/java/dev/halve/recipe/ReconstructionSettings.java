package dev.halve.recipe;

import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * How the blocks of a pruned model are brought back to the dense model's: {@link
 * dev.halve.engine.BlockReconstruction}.
 *
 * @param steps of AdamW in each block, each over about 1,024 tokens of the calibration text
 * @param learningRate of the first step; it falls linearly to 0
 */
@JsonNaming(SnakeCaseStrategy.class)
public record ReconstructionSettings(int steps, double learningRate) {
  public static final double LEARNING_RATE = 1e-3;

  public ReconstructionSettings {
    Settings.require(steps >= 1, "reconstruction steps", "1 or more", steps);
    Settings.require(
        learningRate > 0 && learningRate <= 1,
        "reconstruction rate",
        "above 0, at most 1",
        learningRate);
  }
}
