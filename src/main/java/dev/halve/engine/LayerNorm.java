package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.util.function.Consumer;

/**
 * Layer normalisation of a sum (Ba et al., 2016): {@code out = norm(x + residual) * weight + bias}
 * over {@code [tokens, hidden]}.
 */
public final class LayerNorm {
  private final Parameter weight;
  private final Parameter bias;
  private final float epsilon;

  /**
   * What the backward pass needs.
   *
   * @param sum {@code [tokens, hidden]}
   * @param statistics F32 {@code [tokens, 2]}
   */
  record Saved(Tensor sum, Tensor statistics) {}

  LayerNorm(Device device, Pool pool, String name, int hidden, float epsilon) {
    this.weight = Parameter.allocate(device, pool, name + ".weight", hidden);
    this.bias = Parameter.allocate(device, pool, name + ".bias", hidden);
    this.epsilon = epsilon;
  }

  public Parameter weight() {
    return weight;
  }

  public Parameter bias() {
    return bias;
  }

  public float epsilon() {
    return epsilon;
  }

  void eachParameter(Consumer<Parameter> action) {
    action.accept(weight);
    action.accept(bias);
  }

  /**
   * Writes {@code out}, the norm of {@code dropout(x) + residual}. In training {@code x} becomes
   * the sum, which is kept; the residual may be null.
   */
  Saved forward(Pass pass, Tensor x, Dropout dropout, Tensor residual, Tensor out) {
    Tensor statistics = pass.training() ? pass.workspace().take(DType.F32, pass.tokens(), 2) : null;
    Tensor sum = pass.training() ? x : null;
    pass.device()
        .layerNorm(
            x, dropout, residual, weight.compute(), bias.compute(), epsilon, sum, statistics, out);
    return new Saved(sum, statistics);
  }

  /**
   * Writes {@code dSum}, the gradient of the residual, and consumes {@code dOut}.
   *
   * @param producer the layer that made {@code x}, whose bias gets its gradient here; may be null
   * @return the gradient of {@code x}: in the place of {@code dOut} with dropout, {@code dSum}
   *     without
   */
  Tensor backward(
      Pass pass, Saved saved, Dropout dropout, Linear producer, Tensor dOut, Tensor dSum) {
    Tensor dX = dropout.isNone() ? null : dOut;
    pass.device()
        .layerNormBackward(
            saved.sum,
            saved.statistics,
            weight.compute(),
            dOut,
            dSum,
            dropout,
            dX,
            weight.gradient(),
            bias.gradient(),
            producer == null ? null : producer.bias().gradient());
    return dX == null ? dSum : dX;
  }
}
