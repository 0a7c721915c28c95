package dev.halve.cli;

import dev.halve.recipe.Steps;
import java.nio.file.Path;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve prune}. */
@Command(
    name = "prune",
    header = "Prunes the linear weights of a model",
    description =
        "The weights of the encoder become 2:4, unless told otherwise, by magnitude. "
            + "They stay dense, with zeros: halve train retrains them under the mask, halve "
            + "convert compresses them. Wanda and SparseGPT look at activations and need a text "
            + "to calibrate on, best such as the model will read.",
    footer = {
      "  ./halve prune --model dense --out pruned",
      "  ./halve prune --model dense --sparsity-level 0.5 --sparse-block-shape 1x4 --out"
          + " half-pruned",
      "  ./halve prune --model dense --method sparsegpt --permute --calibration train.json --out"
          + " pruned"
    })
final class PruneCommand extends HalveCommand {
  @Mixin private ModelOption model;
  @Mixin private MethodOptions method;

  @Option(
      names = "--out",
      required = true,
      paramLabel = "FOLDER",
      description = "Where the pruned model goes.")
  private Path out;

  @Override
  void run(Console console, TerminalProgress progress) {
    Steps.Pruned pruned =
        Steps.prune(model.orElse(ModelOption.EMBEDDED), method.plan(), out, progress);
    if (json()) {
      console.json(pruned);
      return;
    }
    console.printf(
        "%s: %.1f%% of the encoder's linear weights are zero, in %d weights, by %s in %s",
        pruned.folder(),
        100 * pruned.sparsity(),
        pruned.layers().size(),
        pruned.method(),
        TerminalProgress.duration(pruned.seconds()));
    for (String name : pruned.leftDense()) {
      console.print("left dense, its shape cannot be pruned so: " + name);
    }
  }
}
