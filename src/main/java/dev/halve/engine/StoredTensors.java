package dev.halve.engine;

import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.io.HybridLayout;
import dev.halve.core.io.SparseLayout;
import dev.halve.core.io.Weights;
import java.lang.foreign.Arena;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Optional;
import java.util.SequencedMap;

/**
 * A stored model's tensors as its configuration has them: under the family's names, with or without
 * the prefix, of the right shapes and free of NaN, whatever layout a 2:4 weight has.
 */
final class StoredTensors {
  private final Weights weights;
  private final BertConfig config;
  private final int positionOffset;
  private final String prefix;

  /**
   * @param positionOffset the row of the stored position table that is position 0
   * @throws HalveException if there is no encoder of the family
   */
  StoredTensors(Weights weights, BertConfig config, int positionOffset) {
    this.weights = weights;
    this.config = config;
    this.positionOffset = positionOffset;
    this.prefix = prefix(weights, config.family());
  }

  private static String prefix(Weights weights, ModelFamily family) {
    for (String prefix : List.of(family.prefix() + ".", "")) {
      if (weights.names().contains(prefix + "embeddings.word_embeddings.weight")) {
        return prefix;
      }
    }
    throw new HalveException(
        weights.origin()
            + ": no tensor embeddings.word_embeddings.weight, with or without the prefix "
            + family.prefix()
            + ".; this is no "
            + family.className()
            + " encoder");
  }

  /** {@code bert.} or nothing, as the file has it. */
  String prefix() {
    return prefix;
  }

  boolean has(String tensorName) {
    return weights.names().contains(tensorName);
  }

  void fill(BertModel model) {
    List<Linear> linears = model.linears();
    for (Linear linear : linears) {
      fill(linear, storedName(linear.name()));
    }
    Device device = model.device();
    model.eachParameter(parameter -> {
      if (linears.stream().noneMatch(linear -> parameter.name().startsWith(linear.name() + "."))) {
        fillEncoders(device, parameter);
      }
    });
  }

  private void fillEncoders(Device device, Parameter parameter) {
    Shape shape = parameter.value().shape();
    String name = storedName(parameter.name());
    if (name.endsWith("token_type_embeddings.weight") && !config.family().hasTokenTypes()) {
      // What the family does not have adds nothing.
      device.zero(parameter.value());
      device.round(parameter);
    } else if (name.endsWith("position_embeddings.weight") && positionOffset > 0) {
      long rows = shape.extent(0);
      Tensor table = stored(name, Shape.of(rows + positionOffset, shape.extent(1)));
      device.upload(table.rows(positionOffset, rows), parameter.value());
      device.round(parameter);
    } else {
      fill(device, parameter, name);
    }
  }

  /** The name in the file of what the model calls {@code bert.x} or, without a head, {@code x}. */
  String storedName(String modelName) {
    String own = config.family().prefix() + ".";
    return prefix + (modelName.startsWith(own) ? modelName.substring(own.length()) : modelName);
  }

  /**
   * @param stored the module's name in the file
   */
  void fill(Linear linear, String stored) {
    Optional<SparseLayout> layout = SparseLayout.of(weights.names(), stored);
    if (layout.isPresent()) {
      try (Arena arena = Arena.ofConfined()) {
        linear.setCompressed(layout.get().read(arena, weights, stored));
      }
    } else if (HybridLayout.holds(weights.names(), stored)) {
      linear.setHybrid(HybridLayout.read(weights, stored));
    } else {
      linear.setWeight(stored(stored + ".weight", linear.weight().shape()));
    }
    fill(linear.device(), linear.bias(), stored + ".bias");
  }

  private void fill(Device device, Parameter parameter, String stored) {
    device.upload(stored(stored, parameter.value().shape()), parameter.value());
    device.round(parameter);
  }

  /** A tensor of a floating type and a shape. */
  Tensor stored(String tensorName, Shape expected) {
    Tensor tensor = stored(tensorName);
    if (!tensor.shape().equals(expected) || !tensor.dtype().isFloating()) {
      throw new HalveException(
          "%s: tensor %s is %s, expected a floating type of shape %s; config.json describes another model"
              .formatted(weights.origin(), tensorName, tensor, expected));
    }
    try {
      return tensor.requireFinite(tensorName);
    } catch (HalveException damaged) {
      throw damaged.in(weights.origin());
    }
  }

  private Tensor stored(String tensorName) {
    // TensorFlow's first checkpoints call a norm's weight gamma and its bias beta.
    String old =
        tensorName
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
    if (!has(tensorName) && !has(old)) {
      throw new HalveException(
          "%s: tensor %s is missing; config.json describes another model"
              .formatted(weights.origin(), tensorName));
    }
    return weights.tensor(has(tensorName) ? tensorName : old);
  }

  /** The rows of the stored position table that no position has; null where there are none. */
  Tensor unusedPositions() {
    String name = prefix + "embeddings.position_embeddings.weight";
    if (positionOffset == 0 || !has(name)) {
      return null;
    }
    Tensor table = weights.tensor(name);
    boolean fits =
        table.dtype().isFloating()
            && table.shape().rank() == 2
            && table.extent(0) >= positionOffset
            && table.extent(1) == config.embeddingSize();
    return fits ? table.rows(0, positionOffset) : null;
  }

  /** The modules of the encoder's linear weights, in the order of the forward pass, with shapes. */
  SequencedMap<String, Shape> linears() {
    SequencedMap<String, Shape> modules = new LinkedHashMap<>();
    int hidden = config.hiddenSize();
    int inner = config.intermediateSize();
    for (int layer = 0; layer < config.numHiddenLayers(); layer++) {
      String name = prefix + "encoder.layer." + layer;
      for (String square : List.of("self.query", "self.key", "self.value", "output.dense")) {
        modules.put(config.family().name(name + ".attention." + square), Shape.of(hidden, hidden));
      }
      modules.put(config.family().name(name + ".intermediate.dense"), Shape.of(inner, hidden));
      modules.put(config.family().name(name + ".output.dense"), Shape.of(hidden, inner));
    }
    return modules;
  }

  /**
   * @param module the head's last layer
   * @throws HalveException if the model has no such head
   */
  void requireHead(String module, String task) {
    if (!has(module + ".weight")) {
      throw new HalveException(
          "%s: tensor %s.weight is missing, so that there is no head for %s; name a model with one"
              .formatted(weights.origin(), module, task));
    }
  }

  /** A layer of a head, on the host, of so many inputs. */
  HostLinear hostLinear(String module, int in) {
    if (SparseLayout.of(weights.names(), module).isPresent()) {
      throw new HalveException(
          weights.origin() + ": " + module + " is a head's layer and compressed; expected dense");
    }
    Tensor weight = stored(module + ".weight");
    if (weight.shape().rank() != 2 || weight.extent(0) < 1 || weight.extent(0) > 1 << 20) {
      throw new HalveException(
          "%s: tensor %s.weight is %s, expected [labels, %d]"
              .formatted(weights.origin(), module, weight, in));
    }
    Tensor checked = stored(module + ".weight", Shape.of(weight.extent(0), in));
    return HostLinear.of(checked, stored(module + ".bias", Shape.of(weight.extent(0))));
  }
}
