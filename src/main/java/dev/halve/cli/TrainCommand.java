package dev.halve.cli;

import dev.halve.recipe.DataSettings;
import dev.halve.recipe.FeatureSettings;
import dev.halve.recipe.PruningSettings;
import dev.halve.recipe.RecoverySettings;
import dev.halve.recipe.Steps;
import dev.halve.recipe.TrainingPlan;
import dev.halve.recipe.TrainingSettings;
import dev.halve.report.Numbers;
import java.nio.file.Path;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve train}. */
@Command(
    name = "train",
    header = "Fine-tunes a model on questions",
    description =
        "Weights that are zero by pruning stay exactly zero. May be interrupted at any "
            + "moment and gone on with by --resume.",
    footer = {
      "  ./halve train --out dense",
      "  ./halve train --model bert-base-uncased/ --train train.json --epochs 2 --out dense",
      "  ./halve train --model pruned --train train.json --out retrained --resume",
      "  ./halve train --model pruned --teacher dense --schedule linear --out recovered",
      "  ./halve train --model pruned --teacher dense --text corpus.txt --label-weight 0 --out"
          + " recovered"
    })
final class TrainCommand extends HalveCommand {
  @Mixin private ModelOption model;
  @Mixin private DeviceOption device;
  @Mixin private DataOptions data;
  @Mixin private FeatureOptions features;
  @Mixin private TrainingOptions training;
  @Mixin private RecoveryOptions recovery;
  @Mixin private PruningOptions pruning;

  @Option(
      names = "--teacher",
      paramLabel = "MODEL",
      description = "The dense model that distillation learns from, a folder.")
  private String teacher;

  @Option(
      names = "--text",
      paramLabel = "FILE",
      description =
          "More rows to learn from the teacher, without labels: plain text, or a file in SQuAD"
              + " v1.1 format.")
  private Path text;

  @Option(
      names = "--out",
      required = true,
      paramLabel = "FOLDER",
      description = "Where the trained model goes.")
  private Path out;

  @Option(names = "--resume", description = "Go on with the training that the folder holds.")
  private boolean resume;

  @Override
  void run(Console console, TerminalProgress progress) {
    RecoverySettings settings =
        recovery.over(
            teacher == null ? RecoverySettings.PLAIN : RecoverySettings.DISTILLATION,
            pruning.over(PruningSettings.SEMI_STRUCTURED));
    if (!settings.masks().chosen()) {
      refuse(RecoveryOptions.CHOICES, PruningOptions.class);
    }
    resumable();
    TrainingPlan plan =
        new TrainingPlan(
            data.over(DataSettings.SYNTHETIC, true, training.evaluates()),
            features.over(FeatureSettings.DEFAULT),
            training.over(TrainingSettings.DEFAULT),
            settings,
            teacher,
            text);
    Steps.Trained trained =
        Steps.train(model.orElse(ModelOption.EMBEDDED), device.name(), plan, out, resume, progress);
    print(console, json(), trained);
  }

  static void print(Console console, boolean json, Steps.Trained trained) {
    if (json) {
      console.json(trained);
      return;
    }
    console.printf(
        "%s: trained %d steps in %s, %.0f tokens/s, last loss %s, %.1f%% of the encoder's linear"
            + " weights are zero",
        trained.folder(),
        trained.steps(),
        Numbers.seconds(trained.seconds()),
        trained.tokensPerS(),
        trained.loss().isEmpty() ? "not logged" : "%.3f".formatted(trained.loss().getLast().loss()),
        100 * trained.sparsity());
  }
}
