package dev.halve.engine;

import dev.halve.core.Tensor;
import java.util.function.Consumer;

/**
 * Word, position and token-type embeddings, summed, normalised, dropped out, and in ELECTRA
 * projected where they are not as wide as the hidden states: {@code [tokens, hidden]}.
 */
public final class Embeddings implements AutoCloseable {
  private final Parameter word;
  private final Parameter position;
  private final Parameter type;
  private final LayerNorm norm;
  private final Linear projection;
  private final float dropout;

  /**
   * What the backward pass needs.
   *
   * @param projected {@code [tokens, embedding]}, the projection's input; null where there is none
   */
  record Saved(LayerNorm.Saved norm, Dropout dropout, Tensor projected) {}

  /**
   * @param prefix of the parameters' names
   */
  Embeddings(Device device, Pool pool, String prefix, BertConfig config) {
    String name = prefix + "embeddings";
    int width = config.embeddingSize();
    this.word =
        Parameter.allocate(
            device, pool, name + ".word_embeddings.weight", config.vocabSize(), width);
    this.position =
        Parameter.allocate(
            device,
            pool,
            name + ".position_embeddings.weight",
            config.maxPositionEmbeddings(),
            width);
    this.type =
        Parameter.allocate(
            device, pool, name + ".token_type_embeddings.weight", config.typeVocabSize(), width);
    this.norm = new LayerNorm(device, pool, name + ".LayerNorm", width, config.layerNormEps());
    this.projection =
        width == config.hiddenSize()
            ? null
            : new Linear(device, pool, name + "_project", width, config.hiddenSize());
    this.dropout = config.hiddenDropoutProb();
  }

  public Parameter word() {
    return word;
  }

  public Parameter position() {
    return position;
  }

  public Parameter type() {
    return type;
  }

  public LayerNorm norm() {
    return norm;
  }

  /** From the embeddings' size to the hidden states'; null where they are the same. */
  public Linear projection() {
    return projection;
  }

  void eachParameter(Consumer<Parameter> action) {
    action.accept(word);
    action.accept(position);
    action.accept(type);
    norm.eachParameter(action);
    if (projection != null) {
      projection.eachParameter(action);
    }
  }

  Saved forward(Pass pass, Tensor out) {
    Workspace.Mark mark = pass.workspace().mark();
    long width = word.value().extent(1);
    Tensor sum = pass.workspace().take(pass.tokens(), width);
    Tensor normed = projection == null ? out : pass.workspace().take(pass.tokens(), width);
    pass.device().embed(pass.batch(), word.compute(), position.compute(), type.compute(), sum);
    Saved saved =
        new Saved(
            norm.forward(pass, sum, Dropout.NONE, null, normed),
            pass.nextDropout(dropout),
            projection == null ? null : normed);
    if (!saved.dropout.isNone()) {
      pass.device().dropout(normed, saved.dropout, normed);
    }
    if (projection != null) {
      projection.forward(pass, normed, Epilogue.NONE, out, 0);
    }
    if (!pass.training()) {
      pass.workspace().release(mark);
    }
    return saved;
  }

  /** Consumes {@code dOut}: it is overwritten. */
  void backward(Pass pass, Saved saved, Tensor dOut) {
    Tensor dNormed = dOut;
    if (projection != null) {
      dNormed = pass.workspace().take(pass.tokens(), word.value().extent(1));
      projection.backward(pass, saved.projected, dOut, 0, dNormed, false);
    }
    if (!saved.dropout.isNone()) {
      pass.device().dropout(dNormed, saved.dropout, dNormed);
    }
    norm.backward(pass, saved.norm, Dropout.NONE, null, dNormed, dNormed);
    pass.device()
        .embedBackward(
            pass.batch(), dNormed, word.gradient(), position.gradient(), type.gradient());
  }

  @Override
  public void close() {
    if (projection != null) {
      projection.close();
    }
  }
}
