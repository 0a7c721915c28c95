package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.util.Random;

/** Random tensors, batches and models for tests, from a seed. */
final class Random24 {
  private final Random random;

  Random24(long seed) {
    random = new Random(seed);
  }

  int below(int bound) {
    return random.nextInt(bound);
  }

  /** Normally distributed values on the device. */
  Tensor normal(Device device, Pool pool, double deviation, long... extents) {
    Tensor tensor = pool.allocate(device.computeType(), extents);
    fill(device, tensor, 0, deviation);
    return tensor;
  }

  void fill(Device device, Tensor tensor, double mean, double deviation) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.F32, tensor.shape().extents());
      for (long i = 0; i < host.elements(); i++) {
        host.setFloat(i, (float) (mean + deviation * random.nextGaussian()));
      }
      device.upload(host, tensor);
    }
  }

  PackedBatch batch(BertConfig config, int... lengths) {
    int[][] ids = new int[lengths.length][];
    int[][] types = new int[lengths.length][];
    for (int row = 0; row < lengths.length; row++) {
      ids[row] = random.ints(lengths[row], 0, config.vocabSize()).toArray();
      types[row] = random.ints(lengths[row], 0, config.typeVocabSize()).toArray();
    }
    return PackedBatch.of(ids, types);
  }

  BertForQuestionAnswering model(Device device, BertConfig config) {
    BertForQuestionAnswering model = new BertForQuestionAnswering(device, config);
    for (Parameter parameter : model.parameters()) {
      boolean scale = parameter.name().endsWith("LayerNorm.weight");
      fill(device, parameter.value(), scale ? 1 : 0, 0.3);
      device.round(parameter);
    }
    return model;
  }
}
