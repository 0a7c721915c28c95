package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.recipe.PruningSettings;
import picocli.CommandLine.Option;

/** What the WeightNormSparsifier is told, under torch.ao.pruning's names. */
final class PruningOptions {
  @Option(
      names = "--sparsity-level",
      paramLabel = "SHARE",
      description = "The share of blocks that are pruned, 0 to 1.")
  private Double sparsityLevel;

  @Option(
      names = "--sparse-block-shape",
      paramLabel = "ROWSxCOLUMNS",
      description = "The size of a block, such as 1x4.")
  private String sparseBlockShape;

  @Option(names = "--zeros-per-block", paramLabel = "N", description = "Zeros in a pruned block.")
  private Integer zerosPerBlock;

  @Option(
      names = "--norm",
      paramLabel = "1|2",
      description = "Elements and blocks are compared by their L1 or L2 norm.")
  private Integer norm;

  /** Whether any was given. */
  boolean given() {
    return sparsityLevel != null
        || sparseBlockShape != null
        || zerosPerBlock != null
        || norm != null;
  }

  PruningSettings over(PruningSettings base) {
    int rows = base.blockRows();
    int columns = base.blockColumns();
    if (sparseBlockShape != null) {
      if (!sparseBlockShape.matches("[1-9]\\d{0,5}x[1-9]\\d{0,5}")) {
        throw new HalveException(
            "--sparse-block-shape must be like 1x4, found '" + sparseBlockShape + "'");
      }
      String[] extents = sparseBlockShape.split("x", 2);
      rows = Integer.parseInt(extents[0]);
      columns = Integer.parseInt(extents[1]);
    }
    return new PruningSettings(
        sparsityLevel == null ? base.sparsityLevel() : sparsityLevel,
        rows,
        columns,
        zerosPerBlock == null ? base.zerosPerBlock() : zerosPerBlock,
        norm == null ? base.norm() : norm);
  }
}
