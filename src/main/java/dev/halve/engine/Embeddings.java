package dev.halve.engine;

import dev.halve.core.Tensor;
import java.util.function.Consumer;

/**
 * Word, position and token-type embeddings, summed, normalised, dropped out: {@code [tokens,
 * hidden]}.
 */
public final class Embeddings {
  private final Parameter word;
  private final Parameter position;
  private final Parameter type;
  private final LayerNorm norm;
  private final float dropout;

  record Saved(LayerNorm.Saved norm, Dropout dropout) {}

  Embeddings(Device device, Pool pool, String name, BertConfig config) {
    int hidden = config.hiddenSize();
    this.word =
        Parameter.allocate(
            device, pool, name + ".word_embeddings.weight", config.vocabSize(), hidden);
    this.position =
        Parameter.allocate(
            device,
            pool,
            name + ".position_embeddings.weight",
            config.maxPositionEmbeddings(),
            hidden);
    this.type =
        Parameter.allocate(
            device, pool, name + ".token_type_embeddings.weight", config.typeVocabSize(), hidden);
    this.norm = new LayerNorm(device, pool, name + ".LayerNorm", hidden, config.layerNormEps());
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

  void eachParameter(Consumer<Parameter> action) {
    action.accept(word);
    action.accept(position);
    action.accept(type);
    norm.eachParameter(action);
  }

  Saved forward(Pass pass, Tensor out) {
    Workspace.Mark mark = pass.workspace().mark();
    Tensor sum = pass.workspace().take(out.shape().extents());
    pass.device().embed(pass.batch(), word.compute(), position.compute(), type.compute(), sum);
    Saved saved =
        new Saved(norm.forward(pass, sum, Dropout.NONE, null, out), pass.nextDropout(dropout));
    if (!saved.dropout.isNone()) {
      pass.device().dropout(out, saved.dropout, out);
    }
    if (!pass.training()) {
      pass.workspace().release(mark);
    }
    return saved;
  }

  /** Consumes {@code dOut}: it is overwritten. */
  void backward(Pass pass, Saved saved, Tensor dOut) {
    if (!saved.dropout.isNone()) {
      pass.device().dropout(dOut, saved.dropout, dOut);
    }
    norm.backward(pass, saved.norm, Dropout.NONE, null, dOut, dOut);
    pass.device()
        .embedBackward(pass.batch(), dOut, word.gradient(), position.gradient(), type.gradient());
  }
}
