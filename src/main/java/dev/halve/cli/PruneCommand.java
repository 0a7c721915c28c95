package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.core.io.AtomicFile;
import dev.halve.engine.BlockReconstruction.Fit;
import dev.halve.recipe.Comparison;
import dev.halve.recipe.DataSettings;
import dev.halve.recipe.EvaluationSettings;
import dev.halve.recipe.FeatureSettings;
import dev.halve.recipe.Output;
import dev.halve.recipe.Questions;
import dev.halve.recipe.RecoverySettings;
import dev.halve.recipe.Sensitivity;
import dev.halve.recipe.Steps;
import dev.halve.recipe.TrainingPlan;
import dev.halve.recipe.TrainingSettings;
import dev.halve.report.MethodComparison;
import dev.halve.report.Numbers;
import dev.halve.report.SensitivityRanking;
import java.nio.file.Path;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve prune}. */
@Command(
    name = "prune",
    header = "Prunes the linear weights of a model",
    description =
        "The weights of the encoder become 2:4, unless told otherwise, by magnitude. They stay"
            + " dense, with zeros: halve train retrains them under the mask, halve convert"
            + " compresses them. Wanda and SparseGPT look at activations and need a text to"
            + " calibrate on, best such as the model will read. --reconstruct and --retrain bring"
            + " back what pruning loses, in one command.",
    footer = {
      "  ./halve prune --model dense --out pruned",
      "  ./halve prune --model dense --sparsity-level 0.5 --sparse-block-shape 1x4 --out"
          + " half-pruned",
      "  ./halve prune --model dense --method sparsegpt --calibration train.json --out pruned",
      "  ./halve prune --model dense --method sparsegpt --calibration train.json --reconstruct 100"
          + " \\",
      "      --retrain --train train.json --epochs 8 --out recovered",
      "  ./halve prune --model dense --compare --calibration train.json --eval dev.json",
      "  ./halve prune --model dense --sensitivity --calibration train.json --plot layers.png"
    })
final class PruneCommand extends HalveCommand {
  @Mixin private ModelOption model;
  @Mixin private MethodOptions method;
  @Mixin private DataOptions data;
  @Mixin private FeatureOptions features;
  @Mixin private EvaluationOptions evaluation;
  @Mixin private DeviceOption device;
  @Mixin private ReconstructionOptions reconstruction;
  @Mixin private TrainingOptions training;
  @Mixin private RecoveryOptions recovery;

  @Option(
      names = "--retrain",
      description =
          "Then train it under its masks, learning from the model it was pruned from: halve train"
              + " in one command. The pruned model stays in FOLDER/pruned.")
  private boolean retrain;

  @Option(names = "--resume", description = "Go on with the training that the folder holds.")
  private boolean resume;

  @Option(names = "--out", paramLabel = "FOLDER", description = "Where the pruned model goes.")
  private Path out;

  @Option(
      names = "--compare",
      description =
          "Prune by every method in turn and show what each leaves: reconstruction error by layer,"
              + " scores where questions are named, time. Nothing is written.")
  private boolean compare;

  @Option(
      names = "--sensitivity",
      description =
          "Prune one layer at a time and rank the layers by what it costs: reconstruction error,"
              + " and where questions are named loss and scores. Nothing is written.")
  private boolean sensitivity;

  @Option(
      names = "--plot",
      paramLabel = "FILE",
      description = "Where a picture of the sensitivities goes, a PNG.")
  private Path plot;

  @Override
  void run(Console console, TerminalProgress progress) {
    requireUsed();
    if (compare || sensitivity) {
      if (compare) {
        compare(console, progress);
      } else {
        rank(console, progress);
      }
      return;
    }
    if (out == null) {
      throw new HalveException("--out FOLDER is missing: where the pruned model goes");
    }
    if (retrain) {
      resumable();
    }
    prune(console, progress);
    if (retrain) {
      retrain(console, progress);
    }
  }

  /** No option may be given in vain: who trains without a word of it finds out too late. */
  private void requireUsed() {
    boolean shows = compare || sensitivity;
    if (shows && (out != null || retrain) || compare && sensitivity) {
      throw new HalveException(
          "--compare, --sensitivity and --out, with or without --retrain, exclude each other");
    }
    if (plot != null && !sensitivity) {
      throw misused("--plot does nothing without --sensitivity");
    }
    if (!retrain) {
      if (resume) {
        throw misused("--resume does nothing without --retrain");
      }
      refuse("--retrain", TrainingOptions.class, RecoveryOptions.class);
    }
    if (!shows) {
      refuse("--compare or --sensitivity", EvaluationOptions.class);
      if (!retrain) {
        refuse("--compare, --sensitivity or --retrain", DataOptions.class, FeatureOptions.class);
      }
    }
  }

  private Questions questions() {
    return data.named()
        ? new Questions(
            data.over(DataSettings.SYNTHETIC, false, true),
            features.over(FeatureSettings.DEFAULT),
            evaluation.over(EvaluationSettings.DEFAULT))
        : null;
  }

  private void compare(Console console, TerminalProgress progress) {
    MethodComparison comparison =
        Comparison.compare(
            model.orElse(ModelOption.EMBEDDED),
            device.name(),
            method.comparison(),
            questions(),
            progress);
    if (json()) {
      console.json(comparison);
    } else {
      progress.hide();
      console.print(comparison.text());
    }
  }

  private void rank(Console console, TerminalProgress progress) {
    method.requireText("--sensitivity");
    if (plot != null) {
      Output.requireFile(plot);
    }
    SensitivityRanking ranking =
        Sensitivity.rank(
            model.orElse(ModelOption.EMBEDDED),
            device.name(),
            method.plan(),
            questions(),
            progress);
    if (json()) {
      console.json(ranking);
    } else {
      progress.hide();
      console.print(ranking.text());
    }
    if (plot != null) {
      AtomicFile.write(plot, ranking.png());
    }
  }

  private void prune(Console console, TerminalProgress progress) {
    Steps.Pruned pruned =
        Steps.prune(
            model.orElse(ModelOption.EMBEDDED),
            device.name(),
            method.plan(),
            reconstruction.settings(),
            retrain ? out.resolve("pruned") : out,
            progress);
    if (json()) {
      if (!retrain) {
        console.json(pruned);
      }
      return;
    }
    console.printf(
        "%s: %.1f%% of the encoder's linear weights are zero, in %d weights, by %s in %s",
        pruned.folder(),
        100 * pruned.sparsity(),
        pruned.layers().size(),
        pruned.method(),
        Numbers.seconds(pruned.seconds()));
    for (String name : pruned.leftDense()) {
      console.print("left dense, its shape cannot be pruned so: " + name);
    }
    for (String name : pruned.keptDense()) {
      console.print("kept dense, it suffers most: " + name);
    }
    if (!pruned.blocks().isEmpty()) {
      console.printf(
          "reconstructed %d blocks: the mean error of their outputs was %.2f%%, is %.2f%%",
          pruned.blocks().size(),
          100 * pruned.blocks().stream().mapToDouble(Fit::before).average().orElseThrow(),
          100 * pruned.blocks().stream().mapToDouble(Fit::after).average().orElseThrow());
    }
  }

  private void retrain(Console console, TerminalProgress progress) {
    String dense = model.orElse(ModelOption.EMBEDDED);
    RecoverySettings settings =
        recovery.over(RecoverySettings.DISTILLATION, method.plan().weightNorm());
    // Masks that are chosen in training start from the weights as they were.
    String start = settings.masks().chosen() ? dense : out.resolve("pruned").toString();
    TrainingPlan plan =
        new TrainingPlan(
            data.over(DataSettings.SYNTHETIC, true, training.evaluates()),
            features.over(FeatureSettings.DEFAULT),
            training.over(TrainingSettings.DEFAULT),
            settings,
            settings.distils() ? dense : null,
            null);
    TrainCommand.print(
        console, json(), Steps.train(start, device.name(), plan, out, resume, progress));
  }
}
