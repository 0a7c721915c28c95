package dev.halve.recipe;

import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * What the WeightNormSparsifier is told, under torch.ao.pruning's names.
 *
 * @param sparsityLevel the share of blocks that are pruned, 0 to 1
 * @param blockRows rows of a block
 * @param blockColumns columns of a block
 * @param zerosPerBlock zeros in a pruned block
 * @param norm 1 or 2: blocks and elements are compared by their L1 or L2 norm
 */
@JsonNaming(SnakeCaseStrategy.class)
public record PruningSettings(
    double sparsityLevel, int blockRows, int blockColumns, int zerosPerBlock, int norm) {
  /** 2:4: {@code WeightNormSparsifier(1.0, (1, 4), 2)}. */
  public static final PruningSettings SEMI_STRUCTURED = new PruningSettings(1.0, 1, 4, 2, 2);

  public PruningSettings {
    Settings.require(
        sparsityLevel >= 0 && sparsityLevel <= 1, "sparsity level", "0 to 1", sparsityLevel);
    Settings.require(blockRows >= 1, "block rows", "1 or more", blockRows);
    Settings.require(blockColumns >= 1, "block columns", "1 or more", blockColumns);
    Settings.require(
        zerosPerBlock >= 0 && zerosPerBlock <= (long) blockRows * blockColumns,
        "zeros per block",
        "0 to the size of a block",
        zerosPerBlock);
    Settings.require(norm == 1 || norm == 2, "norm", "1 or 2", norm);
  }

  /** The same at another level. */
  PruningSettings withLevel(double level) {
    return new PruningSettings(level, blockRows, blockColumns, zerosPerBlock, norm);
  }
}
