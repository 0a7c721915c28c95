package dev.halve.recipe;

import dev.halve.engine.PretrainedModel;
import dev.halve.engine.SequenceClassificationHead;
import dev.halve.qa.Tokens;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;

/**
 * A model that sorts texts, or pairs of texts, into classes: sentiment, topic, entailment. Holds
 * the compiled model until it is closed.
 */
public final class TextClassifier implements AutoCloseable {
  private final TextEncoder<SequenceClassificationHead> encoder;

  private TextClassifier(TextEncoder<SequenceClassificationHead> encoder) {
    this.encoder = encoder;
  }

  /**
   * A class and its probability: of all classes together 1 (softmax), or, where a text may have
   * several, each on its own (sigmoid).
   */
  public record Label(String label, double score) {}

  /**
   * @param model a folder or name whose files have a sequence classification head
   * @param device {@code auto}, {@code cpu}, {@code cuda:0}
   * @throws dev.halve.core.HalveException if there is none, or it cannot be read
   */
  public static TextClassifier open(String model, String device) {
    return open(model, device, Progress.NONE);
  }

  /** The same, told how far it is where the model has to be fetched. */
  public static TextClassifier open(String model, String device, Progress progress) {
    return new TextClassifier(
        TextEncoder.open(model, device, PretrainedModel::sequenceClassificationHead, progress));
  }

  /** The classes of a text, the likeliest first. What the model has no room for is cut off. */
  public List<Label> classify(String text) {
    return classify(List.of(text)).getFirst();
  }

  /** The same of several texts, in their order. */
  public List<List<Label>> classify(List<String> texts) {
    int most = encoder.config().maxPositionEmbeddings();
    return classifyRows(
        encoder.tokenizer().encodeAll(texts).stream()
            .map(tokens -> encoder.row(tokens, most))
            .toList());
  }

  /** The classes of a pair of texts: of a premise and a hypothesis, say. */
  public List<Label> classify(String text, String textPair) {
    List<Tokens> tokens = encoder.tokenizer().encodeAll(List.of(text, textPair));
    int most = encoder.config().maxPositionEmbeddings();
    return classifyRows(List.of(encoder.row(tokens.get(0), tokens.get(1), most))).getFirst();
  }

  private List<List<Label>> classifyRows(List<TextEncoder.Row> rows) {
    List<List<Label>> all = new ArrayList<>(rows.size());
    for (float[][] lines : encoder.run(rows, false)) {
      double[] scores = Scores.of(lines[0], encoder.head().multiLabel());
      List<Label> labels = new ArrayList<>(scores.length);
      for (int i = 0; i < scores.length; i++) {
        labels.add(new Label(encoder.head().labels().get(i), scores[i]));
      }
      labels.sort(Comparator.comparingDouble(Label::score).reversed());
      all.add(List.copyOf(labels));
    }
    return all;
  }

  @Override
  public void close() {
    encoder.close();
  }
}
