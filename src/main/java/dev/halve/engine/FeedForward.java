package dev.halve.engine;

import dev.halve.core.Tensor;
import java.util.function.Consumer;

/**
 * The MLP block: {@code out = norm(x + dropout(output(gelu(intermediate(x)))))}, {@code [tokens,
 * hidden]}.
 */
public final class FeedForward extends EncoderBlock<FeedForward.Saved> {
  private final Linear intermediate;
  private final Linear output;
  private final LayerNorm norm;
  private final float dropout;

  /**
   * What the backward pass needs.
   *
   * @param inner {@code [tokens, intermediate]}, before the activation
   * @param activated {@code [tokens, intermediate]}
   */
  record Saved(Tensor x, Tensor inner, Tensor activated, Dropout dropout, LayerNorm.Saved norm) {}

  FeedForward(Device device, Pool pool, String name, BertConfig config) {
    int hidden = config.hiddenSize();
    int inner = config.intermediateSize();
    ModelFamily family = config.family();
    this.intermediate =
        new Linear(device, pool, family.name(name + ".intermediate.dense"), hidden, inner);
    this.output = new Linear(device, pool, family.name(name + ".output.dense"), inner, hidden);
    String normName = family.name(name + ".output.LayerNorm");
    this.norm = new LayerNorm(device, pool, normName, hidden, config.layerNormEps());
    this.dropout = config.hiddenDropoutProb();
  }

  public Linear intermediate() {
    return intermediate;
  }

  public Linear output() {
    return output;
  }

  public LayerNorm norm() {
    return norm;
  }

  @Override
  void eachLinear(Consumer<Linear> action) {
    action.accept(intermediate);
    action.accept(output);
  }

  @Override
  void eachParameter(Consumer<Parameter> action) {
    eachLinear(linear -> linear.eachParameter(action));
    norm.eachParameter(action);
  }

  @Override
  Saved forward(Pass pass, Tensor x, Tensor out) {
    Workspace workspace = pass.workspace();
    Tensor inner = null;
    Tensor activated = workspace.take(pass.tokens(), intermediate.out());
    if (pass.training()) {
      inner = workspace.take(pass.tokens(), intermediate.out());
      intermediate.forwardGelu(pass, x, inner, activated);
    } else {
      intermediate.forward(pass, x, Epilogue.GELU, activated, 0);
    }
    Tensor dense = workspace.take(pass.tokens(), output.out());
    output.forward(pass, activated, Epilogue.NONE, dense, 0);
    Dropout here = pass.nextDropout(dropout);
    return new Saved(x, inner, activated, here, norm.forward(pass, dense, here, x, out));
  }

  @Override
  void backward(Pass pass, Saved saved, Tensor dOut, Tensor dX) {
    Workspace workspace = pass.workspace();
    Workspace.Mark mark = workspace.mark();
    Tensor dDense = norm.backward(pass, saved.norm, saved.dropout, output, dOut, dX);
    Tensor dInner = workspace.take(pass.tokens(), intermediate.out());
    output.backwardThroughGelu(pass, saved.activated, dDense, saved.inner, dInner, intermediate);
    intermediate.backwardWithoutBias(pass, saved.x, dInner, dX, true);
    workspace.release(mark);
  }
}
