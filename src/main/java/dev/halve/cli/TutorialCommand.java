package dev.halve.cli;

import dev.halve.recipe.FeatureSettings;
import dev.halve.recipe.LatencySettings;
import dev.halve.recipe.PruningMethod;
import dev.halve.recipe.PruningSettings;
import dev.halve.recipe.SeedRuns;
import dev.halve.recipe.Tutorial;
import dev.halve.recipe.TutorialSettings;
import dev.halve.report.Report;
import dev.halve.report.Results;
import dev.halve.report.SeedSummary;
import java.nio.file.Path;
import java.util.List;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve tutorial}. */
@Command(
    name = "tutorial",
    header = "Runs the whole recipe: fine-tune, prune, retrain, compress, measure",
    description =
        "Fine-tunes, measures, prunes, measures, retrains under the mask, measures, "
            + "compresses, measures, times, and reports. May be interrupted at any moment and "
            + "gone on with by --resume.",
    footer = {
      "  ./halve tutorial",
      "  ./halve tutorial --preset full",
      "  ./halve tutorial --preset best --device cuda:0 --seeds 3 --out best",
      "  ./halve tutorial --preset full --train train.json --eval dev.json --max-steps 60 --out"
          + " run1",
      "  ./halve tutorial --resume"
    })
final class TutorialCommand extends HalveCommand {
  @Option(
      names = "--preset",
      paramLabel = "NAME",
      description = {
        "quick: five minutes on two cores; full: the settings of the tutorial; best: a 2:4 model as"
            + " good as the dense one, by learning from it (default: quick, or full where questions"
            + " are named)."
      })
  private String preset;

  @Mixin private ModelOption model;
  @Mixin private DeviceOption device;
  @Mixin private DataOptions data;
  @Mixin private FeatureOptions features;
  @Mixin private TrainingOptions training;
  @Mixin private RetrainOptions retraining;
  @Mixin private RecoveryOptions recovery;
  @Mixin private PruningOptions pruning;

  @Option(
      names = "--method",
      paramLabel = "NAME",
      description =
          "Prune by magnitude (the default), wanda, sparsegpt or transposable; see halve prune."
              + " Activations are the training questions'.")
  private PruningMethod method;

  @Option(
      names = "--permute",
      description = "Bring channels into an order in which 2:4 loses less.")
  private boolean permute;

  @Mixin private ReconstructionOptions reconstruction;
  @Mixin private EvaluationOptions evaluation;

  @Option(
      names = "--batches",
      paramLabel = "ROWS",
      split = ",",
      description = "Batch sizes whose forward pass is timed, in rows of --max-length tokens.")
  private List<Integer> batches;

  @Option(
      names = "--out",
      paramLabel = "FOLDER",
      defaultValue = "halve-out",
      description = "Where models, results and the report go (default: halve-out).")
  private Path out;

  @Option(
      names = "--seeds",
      paramLabel = "N",
      defaultValue = "1",
      description =
          "Run it so often, with the seeds from --seed on, each in a folder of its own; the answer"
              + " is mean and spread.")
  private int seeds;

  @Option(names = "--resume", description = "Go on with the run that the folder holds.")
  private boolean resume;

  @Override
  void run(Console console, TerminalProgress progress) {
    resumable();
    if (seeds != 1) {
      SeedSummary summary = SeedRuns.run(settings(), seeds, out, resume, progress);
      progress.hide();
      if (json()) {
        console.json(summary);
      } else {
        console.print(summary.table());
      }
      return;
    }
    Results results = Tutorial.run(settings(), out, resume, progress);
    progress.hide();
    if (json()) {
      console.json(results);
      return;
    }
    console.print(Report.table(results));
    console.print("Report: " + out.resolve("report.html"));
  }

  private TutorialSettings settings() {
    TutorialSettings base =
        TutorialSettings.preset(preset != null ? preset : data.named() ? "full" : "quick");
    FeatureSettings cut = features.over(base.features());
    LatencySettings latency = base.latency();
    PruningSettings pattern = pruning.over(base.pruning());
    return new TutorialSettings(
        base.preset(),
        model.orElse(base.model()),
        device.name(),
        data.over(base.data(), true, true),
        cut,
        training.over(base.fineTune()),
        pattern,
        retraining.over(training.over(base.retrain())),
        recovery.over(base.recovery(), pattern),
        evaluation.over(base.evaluation()),
        new LatencySettings(
            batches == null ? latency.batchSizes() : batches,
            cut.maxLength(),
            latency.warmup(),
            latency.repeats(),
            latency.maxSeconds()),
        method == null ? base.method() : method,
        permute || base.permute(),
        reconstruction.settings());
  }
}
