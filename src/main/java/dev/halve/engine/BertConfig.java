package dev.halve.engine;

import dev.halve.core.HalveException;

/**
 * The shape of an encoder, under the names of Hugging Face's {@code config.json} for BERT.
 *
 * @param maxPositionEmbeddings positions that a row may have; the stored table of a family that
 *     counts them from an offset has more rows
 * @param typeVocabSize 1 where the family knows no token types
 * @param embeddingSize of a token's embedding, projected to {@code hiddenSize} where it is another
 * @param hiddenDropoutProb of embeddings and of each block's output, in training
 * @param attentionProbsDropoutProb of attention probabilities, in training
 */
public record BertConfig(
    int vocabSize,
    int hiddenSize,
    int numHiddenLayers,
    int numAttentionHeads,
    int intermediateSize,
    int maxPositionEmbeddings,
    int typeVocabSize,
    float layerNormEps,
    float hiddenDropoutProb,
    float attentionProbsDropoutProb,
    int embeddingSize,
    ModelFamily family) {
  public BertConfig {
    require(vocabSize, "vocab_size", 1 << 24);
    require(hiddenSize, "hidden_size", 1 << 16);
    require(numHiddenLayers, "num_hidden_layers", 1 << 10);
    require(numAttentionHeads, "num_attention_heads", 1 << 10);
    require(intermediateSize, "intermediate_size", 1 << 18);
    require(maxPositionEmbeddings, "max_position_embeddings", 1 << 20);
    require(typeVocabSize, "type_vocab_size", 1 << 10);
    if (hiddenSize % numAttentionHeads != 0) {
      throw new HalveException(
          "hidden_size %d is no multiple of num_attention_heads %d"
              .formatted(hiddenSize, numAttentionHeads));
    }
    if (!(layerNormEps > 0 && layerNormEps < 1)) {
      throw new HalveException("layer_norm_eps must be between 0 and 1, found " + layerNormEps);
    }
    requireProbability(hiddenDropoutProb, "hidden_dropout_prob");
    requireProbability(attentionProbsDropoutProb, "attention_probs_dropout_prob");
    require(embeddingSize, "embedding_size", 1 << 16);
    if (embeddingSize != hiddenSize && family != ModelFamily.ELECTRA) {
      throw new HalveException(
          "embedding_size %d is not hidden_size %d; only ELECTRA has that"
              .formatted(embeddingSize, hiddenSize));
    }
  }

  /** The shape of a BERT. */
  public BertConfig(
      int vocabSize,
      int hiddenSize,
      int numHiddenLayers,
      int numAttentionHeads,
      int intermediateSize,
      int maxPositionEmbeddings,
      int typeVocabSize,
      float layerNormEps,
      float hiddenDropoutProb,
      float attentionProbsDropoutProb) {
    this(
        vocabSize,
        hiddenSize,
        numHiddenLayers,
        numAttentionHeads,
        intermediateSize,
        maxPositionEmbeddings,
        typeVocabSize,
        layerNormEps,
        hiddenDropoutProb,
        attentionProbsDropoutProb,
        hiddenSize,
        ModelFamily.BERT);
  }

  /** BERT-base, uncased vocabulary (Devlin et al., 2019). */
  public static BertConfig base() {
    return new BertConfig(30522, 768, 12, 12, 3072, 512, 2, 1e-12f, 0.1f, 0.1f);
  }

  /** BERT-large, uncased vocabulary (Devlin et al., 2019). */
  public static BertConfig large() {
    return new BertConfig(30522, 1024, 24, 16, 4096, 512, 2, 1e-12f, 0.1f, 0.1f);
  }

  /** bge-small-en-v1.5's shape. */
  public static BertConfig small() {
    return new BertConfig(30522, 384, 12, 12, 1536, 512, 2, 1e-12f, 0.1f, 0.1f);
  }

  public int headSize() {
    return hiddenSize / numAttentionHeads;
  }

  /** The same shape with other dropout probabilities. */
  public BertConfig withDropout(float hidden, float attention) {
    return new BertConfig(
        vocabSize,
        hiddenSize,
        numHiddenLayers,
        numAttentionHeads,
        intermediateSize,
        maxPositionEmbeddings,
        typeVocabSize,
        layerNormEps,
        hidden,
        attention,
        embeddingSize,
        family);
  }

  private static void require(int value, String name, int limit) {
    if (value < 1 || value > limit) {
      throw new HalveException(name + " must be between 1 and " + limit + ", found " + value);
    }
  }

  private static void requireProbability(float value, String name) {
    if (!(value >= 0 && value < 1)) {
      throw new HalveException(name + " must be at least 0 and below 1, found " + value);
    }
  }
}
