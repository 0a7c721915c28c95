package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparsify.ChannelPermutation;
import dev.halve.engine.BertModel;
import dev.halve.engine.Device;
import dev.halve.engine.EncoderLayer;
import dev.halve.engine.Linear;
import dev.halve.engine.Parameter;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/**
 * An encoder's channels in another order, the model the same function: the inner channels of every
 * MLP, which are rows of {@code intermediate.dense} and columns of {@code output.dense}, and the
 * channels of every head, which are rows of {@code value} and columns of {@code
 * attention.output.dense}. What the residual stream carries stays in place: one order would have to
 * suit every layer.
 */
final class PermutedChannels {
  /** One order, between the layer that makes the channels and the one that reads them. */
  private record Place(Linear maker, Linear reader, ChannelPermutation permutation) {}

  private final Device device;
  private final List<Place> places = new ArrayList<>();

  private PermutedChannels(Device device) {
    this.device = device;
  }

  /**
   * Searches an order for every place and puts the channels into it.
   *
   * @param inputNorms by a linear layer's name, as Wanda has them, so that what counts is the
   *     magnitude times the norm; empty for the magnitude alone
   */
  static PermutedChannels permute(
      BertModel model, Map<String, Tensor> inputNorms, long seed, Progress progress) {
    PermutedChannels permuted = new PermutedChannels(model.device());
    int heads = model.config().numAttentionHeads();
    List<EncoderLayer> layers = model.layers();
    Stage stage = Stage.begin(progress, "permute channels", layers.size(), "layers");
    for (EncoderLayer layer : layers) {
      stage.checkStop("nothing is written");
      Linear heading = layer.attention().output();
      permuted.permute(layer.attention().value(), heading, heading.in() / heads, inputNorms, seed);
      Linear output = layer.feedForward().output();
      permuted.permute(layer.feedForward().intermediate(), output, output.in(), inputNorms, seed);
      stage.advance(1L + layers.indexOf(layer), "");
    }
    stage.end();
    return permuted;
  }

  private void permute(
      Linear maker, Linear reader, int segment, Map<String, Tensor> inputNorms, long seed) {
    if (segment % 4 != 0) {
      return;
    }
    try (Arena arena = Arena.ofConfined()) {
      Tensor importance = importance(arena, reader, inputNorms.get(reader.name()));
      Place place =
          new Place(
              maker, reader, ChannelPermutation.search(List.of(importance), segment, 0, seed));
      fold(place, place.permutation());
      places.add(place);
    }
  }

  private static Tensor importance(Arena arena, Linear reader, Tensor norms) {
    Tensor weight = reader.weight(arena).requireFinite(reader.name() + ".weight");
    for (long i = 0; norms != null && i < weight.elements(); i++) {
      weight.setFloat(i, weight.getFloat(i) * norms.getFloat(i % reader.in()));
    }
    return weight;
  }

  private void fold(Place place, ChannelPermutation permutation) {
    try (Arena arena = Arena.ofConfined()) {
      Linear maker = place.maker();
      Linear reader = place.reader();
      maker.setWeight(permutation.permuteOutputs(arena, maker.weight(arena)));
      reader.setWeight(permutation.permuteInputs(arena, reader.weight(arena)));
      Parameter bias = maker.bias();
      Tensor host = Tensor.allocate(arena, DType.F32, bias.value().shape().extents());
      device.download(bias.value(), host);
      device.upload(permutation.permuteOutputs(arena, host), bias.value());
      device.round(bias);
    }
  }

  /** Brings the channels back to where they were, with what became of their weights. */
  void undo() {
    places.forEach(place -> fold(place, place.permutation().inverse()));
  }
}
