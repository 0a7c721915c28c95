package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.io.SparseLayout;
import dev.halve.engine.BlockReconstruction;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.PretrainedModel;
import dev.halve.qa.Answers;
import dev.halve.qa.Example;
import dev.halve.qa.Predictions;
import dev.halve.qa.QaFeatures;
import dev.halve.qa.SquadDataset;
import dev.halve.qa.SquadScore;
import dev.halve.report.LayerSparsity;
import dev.halve.report.LossCurve;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;
import tools.jackson.databind.annotation.JsonSerialize;
import tools.jackson.databind.ser.std.ToStringSerializer;

/**
 * The recipe's steps, each on a model of its own: a built-in model's name or a Hugging Face folder
 * in, a Hugging Face folder out. All throw {@link dev.halve.core.HalveException} for bad input.
 */
public final class Steps {
  private Steps() {}

  /**
   * What a training did.
   *
   * @param folder the trained model
   * @param steps taken since its first start
   * @param seconds in all, where it was resumed
   * @param tokensPerS trained on, in this run
   * @param sparsity the share of zeros in the encoder's linear weights
   * @param scores in between, where it was scored
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Trained(
      @JsonSerialize(using = ToStringSerializer.class) Path folder,
      int steps,
      double seconds,
      double tokensPerS,
      double sparsity,
      List<LossCurve.Point> loss,
      List<LossCurve.ScorePoint> scores) {}

  /**
   * Fine-tunes. Weights that are pruned in the model stay exactly zero. A model that is compressed
   * is trained as a pruned one.
   *
   * @param resume go on with the training that the folder holds, or start where it holds none
   * @throws StoppedException if the listener asked for it
   */
  public static Trained train(
      String model, String device, TrainingPlan plan, Path out, boolean resume, Progress progress) {
    Path checkpoint = out.resolve("checkpoint.safetensors");
    if (Files.exists(checkpoint) && !resume) {
      throw new HalveException(
          out
              + " holds an unfinished training; go on with it with --resume, name another folder,"
              + " or delete "
              + checkpoint);
    }
    try (FolderLock _ = FolderLock.of(out)) {
      TrainingRun run = new TrainingRun("train", model, plan, checkpoint, out);
      if (!resume) {
        run.forget();
      }
      SquadDataset questions = QuestionData.train(plan.data(), progress);
      Questions asked = plan.scoring(EvaluationSettings.DEFAULT);
      Examination scoring = asked == null ? null : new Examination(asked, progress);
      try (Device opened = Devices.openForTraining(device)) {
        return run.run(opened, questions, scoring, progress);
      }
    }
  }

  /**
   * What a pruning did.
   *
   * @param method and how else, in words
   * @param leftDense names of the weights whose shape cannot be pruned so
   * @param keptDense names of the layers that the dense budget went to
   * @param blocks what reconstruction did to attention and MLP of each layer; empty without it
   * @param sparsity the share of zeros in the encoder's linear weights
   * @param seconds of the pruning, without reading and writing
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Pruned(
      @JsonSerialize(using = ToStringSerializer.class) Path folder,
      String method,
      double sparsity,
      double seconds,
      List<LayerSparsity> layers,
      List<String> leftDense,
      List<String> keptDense,
      List<BlockReconstruction.Fit> blocks) {}

  /**
   * Prunes the encoder's linear weights, on the host, and leaves dense weights with zeros. A
   * folder's head, whatever it is for, stays as it is.
   */
  public static Pruned prune(String model, PruningPlan plan, Path out, Progress progress) {
    return prune(model, "cpu", plan, null, out, progress);
  }

  /**
   * The same, and brings the pruned model's blocks back to the dense model's.
   *
   * @param device where activations are computed; {@code auto} is the CPU for methods that look at
   *     none
   * @param reconstruction on the text that the plan calibrates on; null for none
   */
  public static Pruned prune(
      String model,
      String device,
      PruningPlan plan,
      ReconstructionSettings reconstruction,
      Path out,
      Progress progress) {
    if (reconstruction != null && plan.calibration() == null) {
      throw new HalveException(
          "reconstruction needs text; name a SQuAD file or plain text to calibrate with");
    }
    Output.require(out);
    boolean activations = plan.needsText() || reconstruction != null;
    boolean anywhere = !activations && device.equals("auto");
    try (Device opened = Devices.openForTraining(anywhere ? "cpu" : device);
        LoadedModel loaded = LoadedModel.ofEncoder(model, opened, progress)) {
      loaded.model().toDense();
      List<PackedBatch> calibration = loaded.calibration(plan);
      long started = System.nanoTime();
      List<String> keptDense =
          plan.denseBudget() > 0
              ? Sensitivity.withinBudget(loaded, plan, calibration, progress)
              : List.of();
      Pruning.Outcome outcome =
          Pruning.prune(loaded.model().bert(), plan.keepingDense(keptDense), calibration, progress);
      List<BlockReconstruction.Fit> blocks = List.of();
      if (reconstruction != null) {
        try (LoadedModel dense = LoadedModel.ofEncoder(model, opened, Progress.NONE)) {
          blocks = Reconstruction.run(dense, loaded, plan.calibration(), reconstruction, progress);
        }
      }
      double seconds = (System.nanoTime() - started) / 1e9;
      PretrainedModel origin = loaded.origin();
      if (origin.folder().isEmpty() || origin.hasQuestionAnsweringHead()) {
        PretrainedModel.save(loaded.model(), origin, out);
      } else {
        origin.saveWith(loaded.model().bert(), out);
      }
      List<LayerSparsity> layers = Pruning.layers(loaded.model());
      return new Pruned(
          out,
          plan.label(),
          LayerSparsity.overall(layers),
          seconds,
          layers,
          outcome.leftDense().stream().map(name -> name + ".weight").toList(),
          keptDense,
          blocks);
    }
  }

  /**
   * Scores of a model.
   *
   * @param exactMatch per cent
   * @param f1 per cent
   * @param total questions
   * @param seconds of the forward passes
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Evaluated(
      double exactMatch, double f1, int total, double seconds, double tokensPerS) {}

  /**
   * Answers questions.
   *
   * @param predictions where to write the answers, {@code {"id": "text"}}; null for nowhere
   */
  public static Evaluated evaluate(
      String model, String device, Questions asked, Path predictions, Progress progress) {
    if (predictions != null) {
      Output.requireFile(predictions);
    }
    Examination examination = new Examination(asked, progress);
    try (Device opened = Devices.open(device);
        LoadedModel loaded = LoadedModel.open(model, opened, 0, progress)) {
      Evaluator.Outcome outcome = examination.ask(loaded, "evaluate", progress);
      if (predictions != null) {
        Predictions.write(predictions, outcome.predictions());
      }
      SquadScore score = outcome.score();
      return new Evaluated(
          score.exactMatch(), score.f1(), score.total(), outcome.seconds(), outcome.tokensPerS());
    }
  }

  /** The forms of a model's weights in a folder. */
  public enum Form {
    DENSE("dense", null),
    /** {@code NAME.values} and {@code NAME.metadata}. */
    SPARSE_SEMI_STRUCTURED(SparseLayout.HALVE),
    /** That of compressed-tensors. */
    SPARSE_24_BITMASK(SparseLayout.SPARSE_24_BITMASK),
    /** That of PyTorch's CUTLASS products. */
    CUTLASS(SparseLayout.CUTLASS),
    /** A graph of dense weights for ONNX Runtime. */
    ONNX("onnx", null);

    private final String label;
    private final SparseLayout layout;

    Form(SparseLayout layout) {
      this(layout.label(), layout);
    }

    Form(String label, SparseLayout layout) {
      this.label = label;
      this.layout = layout;
    }

    /** What the command line calls it. */
    public String label() {
      return label;
    }
  }

  /**
   * What a conversion did.
   *
   * @param fromBytes of the model's weights
   * @param compressed how many of its weights the form compresses
   * @param leftDense names of the encoder's linear weights that are not 2:4
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Converted(
      @JsonSerialize(using = ToStringSerializer.class) Path folder,
      long fromBytes,
      long toBytes,
      int compressed,
      List<String> leftDense) {}

  /**
   * Brings a model into another form, every bit kept, one tensor at a time: a model may be larger
   * than memory.
   */
  public static Converted convert(String model, Form form, Path out, Progress progress) {
    return convert(model, form, null, out, progress);
  }

  /**
   * The same in another floating type.
   *
   * @param dtype F32, F16 or BF16; null to keep what each tensor has
   */
  public static Converted convert(
      String model, Form form, DType dtype, Path out, Progress progress) {
    Output.require(out);
    if (form == Form.ONNX && dtype != null && dtype != DType.F32) {
      throw new HalveException("an ONNX graph is written in F32 alone, not in " + dtype);
    }
    try (PretrainedModel stored = StoredModel.open(model, progress)) {
      Stage stage = Stage.begin(progress, "convert", stored.weights().names().size(), "tensors");
      PretrainedModel.Converted converted =
          form == Form.ONNX
              ? stored.exportOnnx(out, done -> stage.advance(done, ""))
              : stored.convert(out, form.layout, dtype, done -> stage.advance(done, ""));
      stage.end();
      return new Converted(
          out,
          converted.fromBytes(),
          converted.toBytes(),
          converted.compressed(),
          converted.leftDense());
    }
  }

  /**
   * One answer.
   *
   * @param score start logit and end logit together
   * @param start of the text in the context, in characters (UTF-16), inclusive
   * @param end of the text in the context, exclusive
   */
  public record Answer(String text, double score, int start, int end) {}

  /** The likeliest answer to a question from its context; empty where there is none. */
  public static List<Answer> predict(
      String model,
      String device,
      String question,
      String context,
      FeatureSettings features,
      EvaluationSettings evaluation,
      Progress progress) {
    requireAnswerable(question, context);
    Example example = new Example("question", question, context, List.of());
    try (Device opened = Devices.open(device);
        LoadedModel loaded = LoadedModel.open(model, opened, 0, progress)) {
      QaFeatures rows = features.rows(loaded.tokenizer(), List.of(example));
      Answers.Prediction best =
          Evaluator.answers(loaded.model(), rows, evaluation, "predict", progress).best(0);
      return best == null
          ? List.of()
          : List.of(new Answer(best.text(), best.score(), best.start(), best.end()));
    }
  }

  private static void requireAnswerable(String question, String context) {
    if (question.isBlank() || context.isBlank()) {
      throw new HalveException(
          "the %s is empty; give it a text".formatted(question.isBlank() ? "question" : "context"));
    }
    int characters = context.codePointCount(0, context.length());
    if (characters > SquadDataset.MAX_CONTEXT_CHARACTERS) {
      throw new HalveException(
          "the context has %,d characters; at most %,d are read: ask about a part of it"
              .formatted(characters, SquadDataset.MAX_CONTEXT_CHARACTERS));
    }
  }

  /**
   * Scores of a predictions file.
   *
   * @param missing ids of questions without a prediction; each counts 0
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Scored(double exactMatch, double f1, int total, List<String> missing) {}

  /** Scores a file {@code {"id": "text"}} against a file in SQuAD v1.1 format. */
  public static Scored score(Path data, Path predictions) {
    SquadScore score = SquadScore.of(SquadDataset.read(data), Predictions.read(predictions));
    return new Scored(score.exactMatch(), score.f1(), score.total(), score.unanswered());
  }
}
