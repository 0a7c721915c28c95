package dev.halve.recipe;

import dev.halve.report.LayerSparsity;
import dev.halve.report.LossCurve;
import java.nio.file.Path;
import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

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
   * @param seconds of this run alone, where it was resumed
   * @param tokensPerS trained on, in this run
   * @param sparsity the share of zeros in the encoder's linear weights
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Trained(
      Path folder,
      int steps,
      double seconds,
      double tokensPerS,
      double sparsity,
      List<LossCurve.Point> loss) {}

  /**
   * Fine-tunes, on the training questions of the data. Weights that are pruned in the model stay
   * exactly zero. A model that is compressed is trained as a pruned one.
   *
   * @param resume go on with the training that the folder holds, or start where it holds none
   * @throws StoppedException if the listener asked for it
   */
  public static Trained train(
      String model,
      String device,
      DataSettings data,
      FeatureSettings features,
      TrainingSettings training,
      Path out,
      boolean resume,
      Progress progress) {
    throw new UnsupportedOperationException("being written");
  }

  /**
   * What a pruning did.
   *
   * @param leftDense names of the weights whose shape cannot be pruned so
   * @param sparsity the share of zeros in the encoder's linear weights
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Pruned(
      Path folder, double sparsity, List<LayerSparsity> layers, List<String> leftDense) {}

  /** Prunes the encoder's linear weights, and leaves dense weights with zeros. */
  public static Pruned prune(
      String model, String device, PruningSettings pruning, Path out, Progress progress) {
    throw new UnsupportedOperationException("being written");
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
   * Answers the evaluation questions of the data.
   *
   * @param predictions where to write the answers, {@code {"id": "text"}}; null for nowhere
   */
  public static Evaluated evaluate(
      String model,
      String device,
      DataSettings data,
      FeatureSettings features,
      EvaluationSettings evaluation,
      Path predictions,
      Progress progress) {
    throw new UnsupportedOperationException("being written");
  }

  /** The two forms of a pruned model's weights in a folder. */
  public enum Form {
    DENSE,
    /** {@code NAME.values} and {@code NAME.metadata}. */
    SPARSE_SEMI_STRUCTURED
  }

  /**
   * What a conversion did.
   *
   * @param fromBytes of the model's weights
   * @param leftDense names of the encoder's linear weights that are not 2:4
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Converted(Path folder, long fromBytes, long toBytes, List<String> leftDense) {}

  /** Compresses a pruned model, or decompresses a compressed one; both bit for bit. */
  public static Converted convert(
      String model, String device, Form form, Path out, Progress progress) {
    throw new UnsupportedOperationException("being written");
  }

  /**
   * One answer.
   *
   * @param score start logit and end logit together
   * @param start of the text in the context, in characters (UTF-16), inclusive
   * @param end of the text in the context, exclusive
   */
  public record Answer(String text, double score, int start, int end) {}

  /** Answers one question from its context; the likeliest answer first. */
  public static List<Answer> predict(
      String model,
      String device,
      String question,
      String context,
      FeatureSettings features,
      EvaluationSettings evaluation,
      Progress progress) {
    throw new UnsupportedOperationException("being written");
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
    throw new UnsupportedOperationException("being written");
  }
}
