package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.qa.SquadDataset;
import dev.halve.qa.SquadDownload;
import dev.halve.qa.SyntheticSquad;
import java.nio.file.Path;
import java.util.List;

/** The questions that settings name. */
final class QuestionData {
  private QuestionData() {}

  static SquadDataset train(DataSettings data, Progress progress) {
    SquadDataset all =
        data.name().equals("synthetic")
            ? SyntheticSquad.train()
            : read(trainingFile(data, progress), "train", progress);
    return first(all, data.maxTrain());
  }

  /** The file of the training questions, downloaded where need be; null where they are in none. */
  static Path trainingFile(DataSettings data, Progress progress) {
    return data.name().equals("squad")
        ? Stage.download("download train-v1.1.json", SquadDownload::train, progress)
        : data.train();
  }

  static SquadDataset eval(DataSettings data, Progress progress) {
    SquadDataset all =
        switch (data.name()) {
          case "synthetic" -> SyntheticSquad.eval();
          case "squad" ->
              SquadDataset.read(
                  Stage.download("download dev-v1.1.json", SquadDownload::dev, progress));
          default -> read(data.eval(), "eval", progress);
        };
    return first(all, data.maxEval());
  }

  private static SquadDataset read(Path file, String option, Progress progress) {
    if (file == null) {
      throw new HalveException("no %s questions: name a file with --%s".formatted(option, option));
    }
    SquadDataset dataset = SquadDataset.read(file);
    if (!dataset.relocated().isEmpty()) {
      progress.note(
          "%s: %,d answers were not where answer_start says; the nearest place was taken (question %s, …)"
              .formatted(file, dataset.relocated().size(), dataset.relocated().getFirst()));
    }
    return dataset;
  }

  private static SquadDataset first(SquadDataset all, int count) {
    if (count == 0 || count >= all.examples().size()) {
      return all;
    }
    return new SquadDataset(all.name(), List.copyOf(all.examples().subList(0, count)));
  }
}
