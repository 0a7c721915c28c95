package dev.halve.recipe;

import dev.halve.engine.BlockReconstruction;
import dev.halve.engine.PackedBatch;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/** The stage behind pruning that brings a pruned model's blocks back to the dense model's. */
final class Reconstruction {
  /** Tokens of a step at the most, but for a row that is longer. */
  private static final int STEP_TOKENS = 1024;

  private Reconstruction() {}

  /**
   * Trains each block alone, under the pruned model's masks.
   *
   * @param pruned without masks, as pruning leaves it; and as this leaves it
   */
  static List<BlockReconstruction.Fit> run(
      LoadedModel dense,
      LoadedModel pruned,
      CalibrationSettings text,
      ReconstructionSettings settings,
      Progress progress) {
    List<PackedBatch> batches =
        Calibration.batches(pruned.tokenizer(), pruned.model().bert(), text, STEP_TOKENS);
    dense.model().toDense();
    pruned.mask(MaskSettings.FIXED);
    List<BlockReconstruction.Fit> fits = new ArrayList<>();
    try (BlockReconstruction blocks =
        new BlockReconstruction(dense.model().bert(), pruned.model().bert(), batches)) {
      Stage stage = Stage.begin(progress, "reconstruct", blocks.blocks(), "blocks");
      while (fits.size() < blocks.blocks()) {
        stage.checkStop("nothing is written");
        BlockReconstruction.Fit fit =
            blocks.next(
                settings.steps(),
                step -> settings.learningRate() * (1 - (double) step / settings.steps()));
        fits.add(fit);
        stage.advance(
            fits.size(),
            String.format(
                Locale.ROOT, "error %.2f%%, was %.2f%%", 100 * fit.after(), 100 * fit.before()));
      }
      stage.end();
    }
    pruned.model().bert().linears().forEach(linear -> linear.setMask(null));
    return fits;
  }
}
