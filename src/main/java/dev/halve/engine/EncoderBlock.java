package dev.halve.engine;

import dev.halve.core.Tensor;
import java.util.function.Consumer;

/**
 * Half of an encoder layer, with its residual and its norm: {@code [tokens, hidden]} in and out.
 *
 * @param <S> what the backward pass needs
 */
abstract sealed class EncoderBlock<S> implements AutoCloseable permits SelfAttention, FeedForward {
  /** Writes {@code out}. */
  abstract S forward(Pass pass, Tensor x, Tensor out);

  /** Adds to the gradients of its parameters; writes {@code dX}; consumes {@code dOut}. */
  abstract void backward(Pass pass, S saved, Tensor dOut, Tensor dX);

  abstract void eachLinear(Consumer<Linear> action);

  abstract void eachParameter(Consumer<Parameter> action);

  @Override
  public void close() {
    eachLinear(Linear::close);
  }
}
