package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.util.List;
import java.util.function.Consumer;
import java.util.stream.Stream;

/**
 * Multi-head self-attention with its output product, residual and norm (Vaswani et al., 2017):
 * {@code out = norm(x + dropout(output(attention(x))))}, all {@code [tokens, hidden]}.
 */
public final class SelfAttention extends EncoderBlock<SelfAttention.Saved> {
  /** Of query, key and value. */
  private final List<Linear> projections;

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
    this.projections =
        Linear.sideBySide(
            device,
            pool,
            Stream.of(".self.query", ".self.key", ".self.value")
                .map(each -> config.family().name(name + each))
                .toList(),
            hidden,
            hidden);
    String outputName = config.family().name(name + ".output.dense");
    this.output = new Linear(device, pool, outputName, hidden, hidden);
    String normName = config.family().name(name + ".output.LayerNorm");
    this.norm = new LayerNorm(device, pool, normName, hidden, config.layerNormEps());
    this.config = config;
  }

  public Linear query() {
    return projections.get(0);
  }

  public Linear key() {
    return projections.get(1);
  }

  public Linear value() {
    return projections.get(2);
  }

  public Linear output() {
    return output;
  }

  public LayerNorm norm() {
    return norm;
  }

  @Override
  void eachLinear(Consumer<Linear> action) {
    projections.forEach(action);
    action.accept(output);
  }

  @Override
  void eachParameter(Consumer<Parameter> action) {
    // The weights of query, key and value side by side, and their biases: so do their gradients
    // lie.
    projections.forEach(linear -> linear.eachWeight(action));
    projections.forEach(linear -> action.accept(linear.bias()));
    output.eachParameter(action);
    norm.eachParameter(action);
  }

  @Override
  Saved forward(Pass pass, Tensor x, Tensor out) {
    Workspace workspace = pass.workspace();
    int hidden = config.hiddenSize();
    Tensor qkv = workspace.take(pass.tokens(), 3L * hidden);
    pass.device().linears(x, projections, qkv);

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
    LayerNorm.Saved normSaved = norm.forward(pass, dense, outputDropout, x, out);
    return new Saved(x, qkv, probabilityDropout, logSumExp, context, outputDropout, normSaved);
  }

  @Override
  void backward(Pass pass, Saved saved, Tensor dOut, Tensor dX) {
    Workspace workspace = pass.workspace();
    Workspace.Mark mark = workspace.mark();
    int hidden = config.hiddenSize();

    // The norm's sum has two summands: the residual x, and the block's output.
    Tensor dDense = norm.backward(pass, saved.norm, saved.outputDropout, output, dOut, dX);
    Tensor dContext = workspace.take(pass.tokens(), hidden);
    output.backwardWithoutBias(pass, saved.context, dDense, dContext, false);

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
            dQkv,
            projections.stream().map(each -> each.bias().gradient()).toList());
    pass.device().linearsBackward(saved.x, projections, dQkv, dX);
    workspace.release(mark);
  }
}
