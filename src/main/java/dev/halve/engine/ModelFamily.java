package dev.halve.engine;

import java.util.Arrays;
import java.util.Optional;

/**
 * The kinds of encoder that run here: all are BERT's (Devlin et al., 2019) but for their
 * embeddings, their tensors' names and their heads. Names are those of Hugging Face's models.
 */
public enum ModelFamily {
  BERT("bert", "bert", "Bert"),
  /** Liu et al., 2019: positions are counted from {@code pad_token_id + 1}. */
  ROBERTA("roberta", "roberta", "Roberta"),
  /** Conneau et al., 2020: RoBERTa with a vocabulary of a hundred languages. */
  XLM_ROBERTA("xlm-roberta", "roberta", "XLMRoberta"),
  /** Sanh et al., 2019: no token types, and names of its own. */
  DISTILBERT("distilbert", "distilbert", "DistilBert"),
  /** Clark et al., 2020: embeddings may be narrower than the hidden states. */
  ELECTRA("electra", "electra", "Electra");

  private final String modelType;
  private final String prefix;
  private final String className;

  ModelFamily(String modelType, String prefix, String className) {
    this.modelType = modelType;
    this.prefix = prefix;
    this.className = className;
  }

  /** {@code model_type} of {@code config.json}. */
  public String modelType() {
    return modelType;
  }

  /** What the encoder's tensors begin with inside a model with a head, without the dot. */
  public String prefix() {
    return prefix;
  }

  /** What the names of its classes begin with: {@code DistilBert} of DistilBertModel. */
  public String className() {
    return className;
  }

  static Optional<ModelFamily> of(String modelType) {
    return Arrays.stream(values()).filter(each -> each.modelType.equals(modelType)).findFirst();
  }

  /** Whether position 0 is not the first row of the stored table. */
  boolean offsetsPositions() {
    return this == ROBERTA || this == XLM_ROBERTA;
  }

  /** Whether the stored model has a table of token types. */
  boolean hasTokenTypes() {
    return this != DISTILBERT;
  }

  /**
   * The family's name of an encoder's module or tensor.
   *
   * @param bertName BERT's: {@code bert.encoder.layer.0.attention.self.query}
   */
  public String name(String bertName) {
    if (this != DISTILBERT) {
      return bertName;
    }
    return bertName
        .replace("encoder.layer.", "transformer.layer.")
        .replace(".attention.self.query", ".attention.q_lin")
        .replace(".attention.self.key", ".attention.k_lin")
        .replace(".attention.self.value", ".attention.v_lin")
        .replace(".attention.output.dense", ".attention.out_lin")
        .replace(".attention.output.LayerNorm", ".sa_layer_norm")
        .replace(".intermediate.dense", ".ffn.lin1")
        .replace(".output.dense", ".ffn.lin2")
        .replace(".output.LayerNorm", ".output_layer_norm");
  }
}
