package dev.halve.recipe;

import dev.halve.engine.Pooling;
import dev.halve.engine.PretrainedModel;
import java.util.List;

/**
 * A model that makes a vector of a text, near to those of texts that mean the same: mean or CLS
 * pooling, normalised or not, as the model's files say. Holds the compiled model until it is
 * closed.
 */
public final class TextEmbedder implements AutoCloseable {
  private final TextEncoder<Pooling> encoder;

  private TextEmbedder(TextEncoder<Pooling> encoder) {
    this.encoder = encoder;
  }

  /**
   * @param model a folder or name
   * @param device {@code auto}, {@code cpu}, {@code cuda:0}
   * @throws dev.halve.core.HalveException if it cannot be read
   */
  public static TextEmbedder open(String model, String device) {
    return open(model, device, Progress.NONE);
  }

  /** The same, told how far it is where the model has to be fetched. */
  public static TextEmbedder open(String model, String device, Progress progress) {
    return new TextEmbedder(TextEncoder.open(model, device, PretrainedModel::pooling, progress));
  }

  /** How many numbers an embedding has. */
  public int dimension() {
    return encoder.config().hiddenSize();
  }

  /** The embedding of a text, {@code [hidden]}. */
  public float[] embed(String text) {
    return embed(List.of(text))[0];
  }

  /**
   * Embeddings of several texts, {@code [texts][hidden]}. What is longer than the model was trained
   * on ({@code max_seq_length}) is cut off.
   */
  public float[][] embed(List<String> texts) {
    int most = encoder.origin().embeddingLength();
    float[][][] rows =
        encoder.run(
            encoder.tokenizer().encodeAll(texts).stream()
                .map(tokens -> encoder.row(tokens, most))
                .toList(),
            false);
    float[][] embeddings = new float[rows.length][];
    for (int row = 0; row < rows.length; row++) {
      embeddings[row] = rows[row][0];
    }
    return embeddings;
  }

  @Override
  public void close() {
    encoder.close();
  }
}
