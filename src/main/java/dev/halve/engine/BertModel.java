package dev.halve.engine;

import dev.halve.core.Tensor;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;

/**
 * An encoder of a {@link ModelFamily} without pooler: token ids in, last hidden states {@code
 * [tokens, hidden]} out.
 *
 * <p>The model owns its memory on the device. A new one is all zeros: {@link PretrainedModel} fills
 * it.
 */
public final class BertModel implements AutoCloseable {
  private final Device device;
  private final BertConfig config;
  private final Pool pool;
  private final Embeddings embeddings;
  private final List<EncoderLayer> layers = new ArrayList<>();

  /** What the backward pass needs. */
  public record Saved(
      Embeddings.Saved embeddings, List<EncoderLayer.Saved> layers, Tensor lastHidden) {}

  /**
   * @param prefix of the parameters' names: the family's, {@code bert.}, inside a model with a
   *     head, empty for a plain encoder
   */
  BertModel(Device device, BertConfig config, String prefix) {
    this.device = device;
    this.config = config;
    this.pool = device.openPool();
    this.embeddings = new Embeddings(device, pool, prefix, config);
    for (int layer = 0; layer < config.numHiddenLayers(); layer++) {
      layers.add(new EncoderLayer(device, pool, prefix + "encoder.layer." + layer, config));
    }
  }

  public Device device() {
    return device;
  }

  public BertConfig config() {
    return config;
  }

  public Embeddings embeddings() {
    return embeddings;
  }

  public List<EncoderLayer> layers() {
    return List.copyOf(layers);
  }

  /** Every linear layer of the encoder, in the order of the forward pass. */
  public List<Linear> linears() {
    List<Linear> linears = new ArrayList<>();
    layers.forEach(layer -> layer.eachLinear(linears::add));
    return linears;
  }

  void eachParameter(Consumer<Parameter> action) {
    embeddings.eachParameter(action);
    layers.forEach(layer -> layer.eachParameter(action));
  }

  /**
   * Keeps what the backward pass needs if the pass is in training; the last hidden state is in it
   * either way.
   */
  public Saved forward(Pass pass) {
    Workspace workspace = pass.workspace();
    int hidden = config.hiddenSize();
    Tensor x = workspace.take(pass.tokens(), hidden);
    Tensor spare = pass.training() ? null : workspace.take(pass.tokens(), hidden);
    Embeddings.Saved embeddingsSaved = embeddings.forward(pass, x);
    List<EncoderLayer.Saved> layersSaved = new ArrayList<>(layers.size());
    for (EncoderLayer layer : layers) {
      // In inference two buffers take turns; in training every layer's input is kept.
      Tensor out = pass.training() ? workspace.take(pass.tokens(), hidden) : spare;
      layersSaved.add(layer.forward(pass, x, out));
      spare = x;
      x = out;
    }
    return new Saved(embeddingsSaved, layersSaved, x);
  }

  /** The output of each layer, {@code [tokens, hidden]}, kept in the workspace. */
  List<Tensor> hiddenStates(Pass pass) {
    Tensor x = pass.workspace().take(pass.tokens(), config.hiddenSize());
    embeddings.forward(pass, x);
    List<Tensor> outputs = new ArrayList<>(layers.size());
    for (EncoderLayer layer : layers) {
      Tensor out = pass.workspace().take(pass.tokens(), config.hiddenSize());
      layer.forward(pass, x, out);
      outputs.add(out);
      x = out;
    }
    return outputs;
  }

  /** Adds to the gradient of a layer's output. */
  @FunctionalInterface
  interface HiddenGradient {
    void add(int layer, Tensor out, Tensor dOut);
  }

  /** Adds to every parameter's gradient; consumes {@code dLastHidden [tokens, hidden]}. */
  public void backward(Pass pass, Saved saved, Tensor dLastHidden) {
    backward(pass, saved, dLastHidden, (layer, out, dOut) -> {});
  }

  /**
   * The same where the loss depends on the hidden states of other layers too.
   *
   * @param hidden called for every layer, the last one first
   */
  void backward(Pass pass, Saved saved, Tensor dLastHidden, HiddenGradient hidden) {
    Tensor dOut = dLastHidden;
    Tensor dX = pass.workspace().take(dLastHidden.shape().extents());
    Tensor out = saved.lastHidden;
    for (int layer = layers.size() - 1; layer >= 0; layer--) {
      hidden.add(layer, out, dOut);
      out = saved.layers.get(layer).attention().x();
      layers.get(layer).backward(pass, saved.layers.get(layer), dOut, dX);
      Tensor next = dOut;
      dOut = dX;
      dX = next;
    }
    embeddings.backward(pass, saved.embeddings, dOut);
  }

  @Override
  public void close() {
    layers.forEach(EncoderLayer::close);
    embeddings.close();
    pool.close();
  }
}
