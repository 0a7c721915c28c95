package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.qa.Answer;
import dev.halve.qa.Predictions;
import dev.halve.qa.SquadDataset;
import dev.halve.qa.SquadScore;
import dev.halve.report.Example;
import dev.halve.report.LatencyRow;
import dev.halve.report.LayerSparsity;
import dev.halve.report.LossCurve;
import dev.halve.report.ModelSize;
import dev.halve.report.Report;
import dev.halve.report.Results;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * The whole recipe as one run of stages that can be interrupted at any moment and resumed. Each
 * stage reads model folders and leaves one, so that a resumed run does just what an uninterrupted
 * one does.
 */
public final class Tutorial {
  private static final int EXAMPLES = 10;

  private final TutorialSettings settings;
  private final Path out;
  private final Progress progress;
  private final Device device;
  private final RunFile run;
  private Examination examination;

  private Tutorial(
      TutorialSettings settings, Path out, Progress progress, Device device, RunFile run) {
    this.settings = settings;
    this.out = out;
    this.progress = progress;
    this.device = device;
    this.run = run;
  }

  /**
   * Fine-tunes, prunes, retrains, compresses and measures. Leaves in the folder: the models {@code
   * dense}, {@code pruned}, {@code retrained}, {@code sparse} (Hugging Face folders), the answers
   * {@code predictions-STAGE.json}, {@code results.json}, {@code loss.csv}, {@code loss.png},
   * {@code report.html}; while it runs, {@code run.json} and {@code checkpoint.safetensors}.
   *
   * @param resume go on with the run that the folder holds, or start where it holds none; its
   *     settings must be the same
   * @throws HalveException for bad settings or input, or if the folder holds an unfinished run and
   *     {@code resume} is false
   * @throws StoppedException if the listener asked for it
   */
  public static Results run(
      TutorialSettings settings, Path out, boolean resume, Progress progress) {
    try (FolderLock _ = FolderLock.of(out);
        Device device = Devices.openForTraining(settings.device())) {
      RunFile run = RunFile.open(out, settings, resume);
      try {
        return new Tutorial(settings, out, progress, device, run).run();
      } catch (HalveException refused) {
        run.forgetIfEmpty();
        throw refused;
      }
    }
  }

  private Results run() {
    run.put("model", settings.model());
    run.put("device", describe(device));
    train("fine-tune", settings.model(), settings.fineTune(), RecoverySettings.PLAIN, "dense");
    evaluate("dense");
    stage("prune", this::prune);
    evaluate("pruned");
    // Masks that are chosen in training start from the weights as they were.
    RecoverySettings recovery = settings.recovery();
    String start = folder(recovery.masks().chosen() ? "dense" : "pruned");
    train("retrain", start, settings.retrain(), recovery, "retrained");
    evaluate("retrained");
    stage("compress", this::compress);
    evaluate("sparse");
    stage("latency", this::latency);
    run.put("examples", examples());
    run.put("same_answers", sameAnswers());
    Results results = run.results();
    Report.write(out, results).ifPresent(progress::note);
    run.finish();
    return results;
  }

  private static String describe(Device device) {
    return Devices.discover().stream()
        .filter(finding -> finding.name().equals(device.name()))
        .map(finding -> device.name() + ", " + finding.description())
        .findFirst()
        .orElse(device.name());
  }

  private String folder(String model) {
    return out.resolve(model).toString();
  }

  private void stage(String name, Runnable body) {
    if (run.isDone(name)) {
      return;
    }
    if (progress.stopRequested()) {
      throw new StoppedException("stopped before " + name);
    }
    long started = System.nanoTime();
    body.run();
    run.done(name, (System.nanoTime() - started) / 1e9);
  }

  private void train(
      String stage, String model, TrainingSettings training, RecoverySettings recovery, String to) {
    if (run.isDone(stage)) {
      return;
    }
    String teacher = recovery.distils() ? folder("dense") : null;
    TrainingPlan plan =
        new TrainingPlan(settings.data(), settings.features(), training, recovery, teacher, null);
    TrainingRun trainingRun =
        new TrainingRun(stage, model, plan, run.checkpoint(), out.resolve(to));
    if (run.isFresh()) {
      trainingRun.forget();
    }
    SquadDataset questions = QuestionData.train(settings.data(), progress);
    Steps.Trained trained = trainingRun.run(device, questions, examination(), progress);
    run.put("train_questions", questions.examples().size());
    run.addLoss(new LossCurve(stage, trained.loss(), trained.scores()));
    run.done(stage, trained.seconds());
  }

  private Examination examination() {
    if (examination == null) {
      examination =
          new Examination(
              new Questions(settings.data(), settings.features(), settings.evaluation()), progress);
    }
    return examination;
  }

  private void evaluate(String model) {
    stage(
        "evaluate " + model,
        () -> {
          try (LoadedModel loaded = LoadedModel.open(folder(model), device, 0, progress)) {
            Evaluator.Outcome outcome = examination().ask(loaded, "evaluate " + model, progress);
            Predictions.write(predictions(model), outcome.predictions());
            run.put("eval_questions", outcome.score().total());
            run.put(model, outcome.scores());
          }
        });
  }

  private Path predictions(String model) {
    return out.resolve("predictions-" + model + ".json");
  }

  private void prune() {
    Steps.Pruned pruned =
        Steps.prune(
            folder("dense"),
            settings.device(),
            settings.plan(QuestionData.trainingFile(settings.data(), progress)),
            settings.reconstruction(),
            out.resolve("pruned"),
            progress);
    pruned
        .leftDense()
        .forEach(name -> progress.note(name + " is left dense: its shape cannot be 2:4"));
    run.put("layers", pruned.layers());
    run.put("left_dense", pruned.leftDense());
  }

  private void compress() {
    Steps.convert(
        folder("retrained"), Steps.Form.SPARSE_SEMI_STRUCTURED, out.resolve("sparse"), progress);
  }

  private void latency() {
    try (LoadedModel dense = LoadedModel.open(folder("dense"), device, 0, progress);
        LoadedModel sparse = LoadedModel.open(folder("sparse"), device, 0, progress)) {
      List<LayerSparsity> layers = Pruning.layers(sparse.model());
      run.put(
          "size",
          new ModelSize(
              weightsFile("dense"),
              weightsFile("sparse"),
              layers.stream().mapToLong(LayerSparsity::denseBytes).sum(),
              layers.stream().mapToLong(LayerSparsity::compressedBytes).sum(),
              dense.model().linearWeightBytes(),
              sparse.model().linearWeightBytes()));
      run.put("latency", latency(dense.model(), sparse.model()));
    }
  }

  private List<LatencyRow> latency(
      BertForQuestionAnswering dense, BertForQuestionAnswering sparse) {
    try (BenchmarkEncoder denseRuns = BenchmarkEncoder.of(dense);
        BenchmarkEncoder sparseRuns = BenchmarkEncoder.of(sparse)) {
      return Latency.measure(
          Latency.batches(
              dense.config(),
              settings.latency().withSeqAtMost(dense.config().maxPositionEmbeddings()),
              null),
          List.of(
              new Latency.Candidate("halve", "dense", "eager", denseRuns::eager),
              new Latency.Candidate("halve", "2:4", "eager", sparseRuns::eager),
              new Latency.Candidate("halve", "dense", "compiled", denseRuns::compiled),
              new Latency.Candidate("halve", "2:4", "compiled", sparseRuns::compiled)),
          settings.latency(),
          progress);
    }
  }

  private long weightsFile(String model) {
    Path file = out.resolve(model).resolve("model.safetensors");
    try {
      return Files.size(file);
    } catch (IOException failure) {
      throw HalveException.of("read", file, failure);
    }
  }

  /** Evaluation questions at equal distances, so that none is picked for its answer. */
  private List<Example> examples() {
    Map<String, String> dense = Predictions.read(predictions("dense"));
    Map<String, String> sparse = Predictions.read(predictions("sparse"));
    List<dev.halve.qa.Example> questions = examination().questions();
    int count = Math.min(EXAMPLES, questions.size());
    List<Example> examples = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      dev.halve.qa.Example question = questions.get((int) ((long) i * questions.size() / count));
      String denseAnswer = dense.get(question.id());
      String sparseAnswer = sparse.get(question.id());
      examples.add(
          new Example(
              question.id(),
              question.question(),
              question.context(),
              question.answers().stream().map(Answer::text).distinct().toList(),
              denseAnswer,
              exact(question, denseAnswer),
              sparseAnswer,
              exact(question, sparseAnswer)));
    }
    return examples;
  }

  private static boolean exact(dev.halve.qa.Example question, String answer) {
    return question.answers().stream().anyMatch(gold -> SquadScore.exactMatch(answer, gold.text()));
  }

  private int sameAnswers() {
    Map<String, String> masked = Predictions.read(predictions("retrained"));
    Map<String, String> sparse = Predictions.read(predictions("sparse"));
    return (int)
        masked.entrySet().stream()
            .filter(answer -> answer.getValue().equals(sparse.get(answer.getKey())))
            .count();
  }
}
