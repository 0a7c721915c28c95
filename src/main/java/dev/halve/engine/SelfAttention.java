package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.util.function.Consumer;

/**
 * Multi-head self-attention with its output product, residual and norm (Vaswani et al., 2017):
 * {@code out = norm(x + dropout(output(attention(x))))}, all {@code [tokens, hidden]}.
 */
public final class SelfAttention implements AutoCloseable {
  private final Linear query;
  private final Linear key;
  private final Linear value;
  private final Linear output;
  private final LayerNorm norm;
  private final BertConfig config;

  /**
   * What the backward pass needs.
   *
   * @param qkv {@code [tokens, 3 * hidden]}
   * @param logSumExp F32 {@code [tokens, heads]}
   * @param context {@code [tokens, hidden]}, the heads' results
   */
  record Saved(
      Tensor x,
      Tensor qkv,
      Dropout probabilityDropout,
      Tensor logSumExp,
      Tensor context,
      Dropout outputDropout,
      LayerNorm.Saved norm) {}

  SelfAttention(Device device, Pool pool, String name, BertConfig config) {
    int hidden = config.hiddenSize();
    this.query = new Linear(device, pool, name + ".self.query", hidden, hidden);
    this.key = new Linear(device, pool, name + ".self.key", hidden, hidden);
    this.value = new Linear(device, pool, name + ".self.value", hidden, hidden);
    this.output = new Linear(device, pool, name + ".output.dense", hidden, hidden);
    this.norm =
        new LayerNorm(device, pool, name + ".output.LayerNorm", hidden, config.layerNormEps());
    this.config = config;
  }

  public Linear query() {
    return query;
  }

  public Linear key() {
    return key;
  }

  public Linear value() {
    return value;
  }

  public Linear output() {
    return output;
  }

  public LayerNorm norm() {
    return norm;
  }

  void eachLinear(Consumer<Linear> action) {
    action.accept(query);
    action.accept(key);
    action.accept(value);
    action.accept(output);
  }

  void eachParameter(Consumer<Parameter> action) {
    eachLinear(linear -> linear.eachParameter(action));
    norm.eachParameter(action);
  }

  Saved forward(Pass pass, Tensor x, Tensor out) {
    Workspace workspace = pass.workspace();
    int hidden = config.hiddenSize();
    Tensor qkv = workspace.take(pass.tokens(), 3L * hidden);
    query.forward(pass, x, Epilogue.NONE, qkv, 0);
    key.forward(pass, x, Epilogue.NONE, qkv, hidden);
    value.forward(pass, x, Epilogue.NONE, qkv, 2 * hidden);

    Tensor logSumExp =
        pass.training()
            ? workspace.take(DType.F32, pass.tokens(), config.numAttentionHeads())
            : null;
    Tensor context = workspace.take(pass.tokens(), hidden);
    Dropout probabilityDropout = pass.nextDropout(config.attentionProbsDropoutProb());
    pass.device()
        .attention(
            qkv, pass.batch(), config.numAttentionHeads(), probabilityDropout, logSumExp, context);

    Tensor dense = workspace.take(pass.tokens(), hidden);
    output.forward(pass, context, Epilogue.NONE, dense, 0);
    Dropout outputDropout = pass.nextDropout(config.hiddenDropoutProb());
    if (!outputDropout.isNone()) {
      pass.device().dropout(dense, outputDropout, dense);
    }
    LayerNorm.Saved normSaved = norm.forward(pass, dense, x, out);
    return new Saved(x, qkv, probabilityDropout, logSumExp, context, outputDropout, normSaved);
  }

  /** Writes {@code dX}; consumes {@code dOut}. */
  void backward(Pass pass, Saved saved, Tensor dOut, Tensor dX) {
    Workspace workspace = pass.workspace();
    Workspace.Mark mark = workspace.mark();
    int hidden = config.hiddenSize();

    // The norm's sum has two summands: the residual x, and the block's output.
    norm.backward(pass, saved.norm, dOut, dX);
    Tensor dDense = dX;
    if (!saved.outputDropout.isNone()) {
      dDense = dOut;
      pass.device().dropout(dX, saved.outputDropout, dDense);
    }
    Tensor dContext = workspace.take(pass.tokens(), hidden);
    output.backward(pass, saved.context, dDense, 0, dContext, false);

    Tensor dQkv = workspace.take(pass.tokens(), 3L * hidden);
    pass.device()
        .attentionBackward(
            saved.qkv,
            pass.batch(),
            config.numAttentionHeads(),
            saved.probabilityDropout,
            saved.logSumExp,
            saved.context,
            dContext,
            dQkv);
    query.backward(pass, saved.x, dQkv, 0, dX, true);
    key.backward(pass, saved.x, dQkv, hidden, dX, true);
    value.backward(pass, saved.x, dQkv, 2 * hidden, dX, true);
    workspace.release(mark);
  }

  @Override
  public void close() {
    eachLinear(Linear::close);
  }
}
