package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;
import java.util.function.Consumer;

/**
 * An encoder's forward pass over many batches at once that stops before each product: what
 * calibration runs. A weight that is changed at its stop is the one that the pass goes on with, so
 * that what comes behind sees the layers as they have become.
 *
 * <p>Holds two hidden states {@code [tokens, hidden]} of every batch, whatever the depth.
 */
public final class LayerwisePass implements AutoCloseable {
  /** What is read at a stop. */
  public enum Part {
    /** The layer's input, by query, key and value. */
    ATTENTION,
    /** The heads' results. */
    ATTENTION_OUTPUT,
    /** The attention block's output. */
    INTERMEDIATE,
    /** The activated inner states {@code [tokens, intermediate]}. */
    OUTPUT
  }

  /**
   * A stop.
   *
   * @param layer counts from 0
   * @param readers the linear layers that read one input here
   */
  public record Stop(int layer, Part part, List<Linear> readers) {}

  private final BertModel model;
  private final List<PackedBatch> batches;
  private final Workspace workspace;
  private final Pool pool;

  // The layer's input, and from INTERMEDIATE on the attention block's output.
  private final Tensor[] states;
  // At ATTENTION_OUTPUT the heads' results; elsewhere room for the next states.
  private final Tensor[] others;
  private Stop stop;
  private final Arena arena = Arena.ofShared();
  private MemorySegment room = MemorySegment.NULL;

  /**
   * Embeds the batches.
   *
   * @throws dev.halve.core.HalveException if a batch does not fit the model
   */
  public LayerwisePass(BertModel model, List<PackedBatch> batches) {
    batches.forEach(batch -> batch.check(model.config()));
    this.model = model;
    this.batches = List.copyOf(batches);
    this.workspace = new Workspace(model.device());
    this.pool = model.device().openPool();
    this.states = allocate();
    this.others = allocate();
    eachBatch((pass, index) -> model.embeddings().forward(pass, states[index]));
  }

  private Tensor[] allocate() {
    return batches.stream()
        .map(batch ->
            pool.allocate(
                model.device().computeType(), batch.tokens(), model.config().hiddenSize()))
        .toArray(Tensor[]::new);
  }

  private interface BatchAction {
    void run(Pass pass, int index);
  }

  private void eachBatch(BatchAction action) {
    for (int index = 0; index < batches.size(); index++) {
      action.run(Pass.inference(workspace, batches.get(index)), index);
      workspace.reset();
    }
  }

  /** How many stops there are in all. */
  public int stops() {
    return model.layers().size() * Part.values().length;
  }

  /** Goes on to the next stop with the weights as they are now; null behind the last. */
  public Stop next() {
    if (stop == null) {
      stop = stop(0, Part.ATTENTION);
      return stop;
    }
    EncoderLayer layer = model.layers().get(stop.layer);
    switch (stop.part) {
      case ATTENTION -> {
        eachBatch((pass, index) -> heads(pass, states[index], others[index]));
        stop = stop(stop.layer, Part.ATTENTION_OUTPUT);
      }
      case ATTENTION_OUTPUT -> {
        SelfAttention attention = layer.attention();
        eachBatch((pass, index) ->
            finish(pass, attention.output(), others[index], attention.norm(), index));
        stop = stop(stop.layer, Part.INTERMEDIATE);
      }
      case INTERMEDIATE -> stop = stop(stop.layer, Part.OUTPUT);
      case OUTPUT -> {
        if (stop.layer + 1 == model.layers().size()) {
          return null;
        }
        FeedForward feedForward = layer.feedForward();
        eachBatch((pass, index) ->
            finish(pass, feedForward.output(), inner(pass, index), feedForward.norm(), index));
        stop = stop(stop.layer + 1, Part.ATTENTION);
      }
    }
    return stop;
  }

  private Stop stop(int layer, Part part) {
    SelfAttention attention = model.layers().get(layer).attention();
    FeedForward feedForward = model.layers().get(layer).feedForward();
    return new Stop(
        layer,
        part,
        switch (part) {
          case ATTENTION -> List.of(attention.query(), attention.key(), attention.value());
          case ATTENTION_OUTPUT -> List.of(attention.output());
          case INTERMEDIATE -> List.of(feedForward.intermediate());
          case OUTPUT -> List.of(feedForward.output());
        });
  }

  private void heads(Pass pass, Tensor x, Tensor out) {
    Tensor qkv = workspace.take(pass.tokens(), 3L * model.config().hiddenSize());
    pass.device().linears(x, stop.readers, qkv);
    int heads = model.config().numAttentionHeads();
    pass.device().attention(qkv, pass.batch(), heads, Dropout.NONE, null, out);
  }

  /** {@code state = norm(output(x) + state)}. */
  private void finish(Pass pass, Linear output, Tensor x, LayerNorm norm, int index) {
    Tensor dense = workspace.take(pass.tokens(), output.out());
    output.forward(pass, x, Epilogue.NONE, dense, 0);
    norm.forward(pass, dense, Dropout.NONE, states[index], others[index]);
    Tensor next = others[index];
    others[index] = states[index];
    states[index] = next;
  }

  private Tensor inner(Pass pass, int index) {
    Linear intermediate = model.layers().get(stop.layer).feedForward().intermediate();
    Tensor inner = workspace.take(pass.tokens(), intermediate.out());
    intermediate.forward(pass, states[index], Epilogue.GELU, inner, 0);
    return inner;
  }

  /**
   * Shows what goes into the stop's readers, a batch at a time.
   *
   * @param action gets F32 {@code [tokens, in]} on the host, to read until it returns
   */
  public void eachInput(Consumer<Tensor> action) {
    eachBatch((pass, index) -> {
      Tensor input = input(pass, index);
      if (input.onHost() && input.dtype() == DType.F32) {
        action.accept(input);
        return;
      }
      Tensor host = onHost(input.shape());
      pass.device().download(input, host);
      action.accept(host);
    });
  }

  private Tensor input(Pass pass, int index) {
    return switch (stop.part) {
      case ATTENTION, INTERMEDIATE -> states[index];
      case ATTENTION_OUTPUT -> others[index];
      case OUTPUT -> inner(pass, index);
    };
  }

  /**
   * {@code Σ xᵀ·x} over all tokens of what goes into the stop's readers, made where it lies.
   *
   * @return F32 {@code [in, in]} on the host, owned by the arena; what lies below the diagonal is
   *     undefined
   */
  public Tensor inputProducts(Arena owner) {
    int in = stop.readers.getFirst().in();
    Device device = model.device();
    Tensor host = Tensor.allocate(owner, DType.F32, in, in);
    try (Pool scratch = device.openPool()) {
      Tensor products = scratch.allocate(DType.F32, in, in);
      device.zero(products);
      eachBatch((pass, index) -> device.addGram(input(pass, index), products));
      device.download(products, host);
    }
    return host;
  }

  /** The tokens of all batches. */
  public long tokens() {
    return batches.stream().mapToLong(PackedBatch::tokens).sum();
  }

  /** Room for what is downloaded, the same one batch after another. */
  private Tensor onHost(Shape shape) {
    long bytes = shape.elements() * Float.BYTES;
    if (room.byteSize() < bytes) {
      room = arena.allocate(bytes, Tensor.ALIGNMENT);
    }
    return new Tensor(DType.F32, shape, room.asSlice(0, bytes));
  }

  @Override
  public void close() {
    workspace.close();
    pool.close();
    arena.close();
  }
}
