package dev.halve.engine;

import dev.halve.core.Tensor;
import java.util.function.Consumer;

/** One layer of the encoder: attention, then the MLP, {@code [tokens, hidden]} in and out. */
public final class EncoderLayer implements AutoCloseable {
  private final SelfAttention attention;
  private final FeedForward feedForward;

  record Saved(SelfAttention.Saved attention, FeedForward.Saved feedForward) {}

  EncoderLayer(Device device, Pool pool, String name, BertConfig config) {
    this.attention = new SelfAttention(device, pool, name + ".attention", config);
    this.feedForward = new FeedForward(device, pool, name, config);
  }

  public SelfAttention attention() {
    return attention;
  }

  public FeedForward feedForward() {
    return feedForward;
  }

  void eachLinear(Consumer<Linear> action) {
    attention.eachLinear(action);
    feedForward.eachLinear(action);
  }

  void eachParameter(Consumer<Parameter> action) {
    attention.eachParameter(action);
    feedForward.eachParameter(action);
  }

  Saved forward(Pass pass, Tensor x, Tensor out) {
    Workspace.Mark mark = pass.workspace().mark();
    Tensor middle = pass.workspace().take(x.shape().extents());
    SelfAttention.Saved attentionSaved = attention.forward(pass, x, middle);
    Saved saved = new Saved(attentionSaved, feedForward.forward(pass, middle, out));
    if (!pass.training()) {
      pass.workspace().release(mark);
    }
    return saved;
  }

  /** Writes {@code dX}; consumes {@code dOut}. */
  void backward(Pass pass, Saved saved, Tensor dOut, Tensor dX) {
    Workspace.Mark mark = pass.workspace().mark();
    Tensor dMiddle = pass.workspace().take(dOut.shape().extents());
    feedForward.backward(pass, saved.feedForward, dOut, dMiddle);
    attention.backward(pass, saved.attention, dMiddle, dX);
    pass.workspace().release(mark);
  }

  @Override
  public void close() {
    attention.close();
    feedForward.close();
  }
}
