package dev.halve.recipe;

import dev.halve.engine.PretrainedModel;
import dev.halve.engine.TokenClassificationHead;
import dev.halve.qa.Tokens;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * A model that gives every token a class, and the spans that neighbouring tokens of a class make:
 * names of persons and places, say. Holds the compiled model until it is closed.
 */
public final class TokenClassifier implements AutoCloseable {
  private final TextEncoder<TokenClassificationHead> encoder;

  private TokenClassifier(TextEncoder<TokenClassificationHead> encoder) {
    this.encoder = encoder;
  }

  /**
   * A span of one class.
   *
   * @param entityGroup the class without {@code B-} and {@code I-}
   * @param score the mean of its tokens' probabilities
   * @param start of the span in the text, in characters (UTF-16), inclusive
   * @param end exclusive
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Entity(String entityGroup, double score, String text, int start, int end) {}

  /**
   * @param model a folder or name whose files have a token classification head
   * @param device {@code auto}, {@code cpu}, {@code cuda:0}
   * @throws dev.halve.core.HalveException if there is none, or it cannot be read
   */
  public static TokenClassifier open(String model, String device) {
    return open(model, device, Progress.NONE);
  }

  /** The same, told how far it is where the model has to be fetched. */
  public static TokenClassifier open(String model, String device, Progress progress) {
    return new TokenClassifier(
        TextEncoder.open(model, device, PretrainedModel::tokenClassificationHead, progress));
  }

  /**
   * The spans of a text in their order, those of class {@code O} left out; grouped as Hugging
   * Face's pipeline does under {@code aggregation_strategy="simple"}. A long text is read in
   * windows; a token counts in the one whose edges are farther.
   */
  public List<Entity> classify(String text) {
    Tokens tokens = encoder.tokenizer().encode(text);
    float[][] logits = logits(tokens);
    List<Entity> entities = new ArrayList<>();
    Group group = null;
    for (int token = 0; token < tokens.count(); token++) {
      double[] scores = Scores.of(logits[token], false);
      int best = best(scores);
      String label = encoder.head().labels().get(best);
      boolean begins = label.startsWith("B-");
      String name = begins || label.startsWith("I-") ? label.substring(2) : label;
      if (group == null || begins || !group.name.equals(name)) {
        add(entities, group, text);
        group = new Group(name, tokens.starts()[token]);
      }
      group.add(scores[best], tokens.ends()[token]);
    }
    add(entities, group, text);
    return List.copyOf(entities);
  }

  private static void add(List<Entity> entities, Group group, String text) {
    if (group != null && !group.name.equals("O")) {
      entities.add(
          new Entity(
              group.name,
              group.sum / group.count,
              text.substring(group.start, group.end),
              group.start,
              group.end));
    }
  }

  private static int best(double[] scores) {
    int best = 0;
    for (int i = 1; i < scores.length; i++) {
      best = scores[i] > scores[best] ? i : best;
    }
    return best;
  }

  /** Tokens in a row of one class. */
  private static final class Group {
    final String name;
    final int start;
    int end;
    double sum;
    int count;

    Group(String name, int start) {
      this.name = name;
      this.start = start;
    }

    void add(double score, int tokenEnd) {
      sum += score;
      count++;
      end = tokenEnd;
    }
  }

  /** {@code [tokens][labels]}, without the special tokens. */
  private float[][] logits(Tokens tokens) {
    int before = encoder.tokenizer().single().before().length;
    int most = encoder.config().maxPositionEmbeddings();
    int room = Math.max(1, most - encoder.tokenizer().single().count());
    int step = Math.max(1, room - room / 4);
    List<TextEncoder.Row> rows = new ArrayList<>();
    List<Integer> starts = new ArrayList<>();
    for (int from = 0; from == 0 || from + room - step < tokens.count(); from += step) {
      int to = Math.min(tokens.count(), from + room);
      int[] ids = Arrays.copyOfRange(tokens.ids(), from, to);
      rows.add(encoder.row(new Tokens(ids, ids, ids), most));
      starts.add(from);
    }
    float[][][] windows = encoder.run(rows, true);
    float[][] logits = new float[tokens.count()][];
    int[] distance = new int[tokens.count()];
    for (int window = 0; window < windows.length; window++) {
      int from = starts.get(window);
      int to = Math.min(tokens.count(), from + room);
      for (int token = from; token < to; token++) {
        int left = from == 0 ? Integer.MAX_VALUE : token - from;
        int right = to == tokens.count() ? Integer.MAX_VALUE : to - 1 - token;
        int edge = Math.min(left, right);
        if (logits[token] == null || edge > distance[token]) {
          logits[token] = windows[window][before + token - from];
          distance[token] = edge;
        }
      }
    }
    return logits;
  }

  @Override
  public void close() {
    encoder.close();
  }
}
