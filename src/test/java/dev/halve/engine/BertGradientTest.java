package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class BertGradientTest {
  private static final BertConfig TINY = new BertConfig(23, 12, 2, 3, 20, 40, 2, 1e-12f, 0f, 0f);

  /** Embeddings narrower than the hidden states. */
  private static final BertConfig NARROW =
      new BertConfig(23, 12, 1, 3, 20, 40, 2, 1e-12f, 0.2f, 0.2f, 8, ModelFamily.ELECTRA);

  @ParameterizedTest
  @ValueSource(floats = {0f, 0.2f})
  void everyGradientIsTheCentralDifferenceOfTheFormula(float dropout) {
    assertGradients(TINY.withDropout(dropout, dropout));
  }

  @Test
  void theGradientsOfProjectedEmbeddingsToo() {
    assertGradients(NARROW);
  }

  private static void assertGradients(BertConfig config) {
    Random24 random = new Random24(7);
    int[] starts = {1, 0, 4, 30};
    int[] ends = {3, 0, 6, 31};
    int seed = 12345;
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = random.model(device, config);
        Workspace workspace = new Workspace(device);
        Pool pool = device.openPool()) {
      PackedBatch batch = random.batch(config, 5, 1, 19, 3);
      Tensor loss = pool.allocate(DType.F32, 1);
      model.prepareTraining();
      DeviceBatch onDevice = DeviceBatch.upload(workspace, batch, starts, ends);
      model.forwardBackward(Pass.training(workspace, onDevice, seed), null, null, 1, loss);

      ReferenceBert reference = new ReferenceBert(config, model.parameters(), batch, true, seed);
      assertThat((double) loss.getFloat(0)).isCloseTo(reference.loss(starts, ends), within(1e-5));
      for (Parameter parameter : model.parameters()) {
        double[] values = reference.parameter(parameter.name());
        float[] gradient = parameter.gradient().toFloatArray();
        double worst = 0;
        // A key's bias shifts all of a query's scores alike: its gradient is 0, and what is found
        // is the rounding of summands of about this size.
        double scale = 5e-3;
        for (int i = 0; i < values.length; i++) {
          double h = 1e-5;
          double kept = values[i];
          values[i] = kept + h;
          double up = reference.loss(starts, ends);
          values[i] = kept - h;
          double down = reference.loss(starts, ends);
          values[i] = kept;
          double expected = (up - down) / (2 * h);
          worst = Math.max(worst, Math.abs(gradient[i] - expected));
          scale = Math.max(scale, Math.abs(expected));
        }
        assertThat(worst / scale).as(parameter.name()).isLessThan(2e-5);
      }
    }
  }

  @Test
  void eagerInferenceGivesTheReferencesLogits() {
    Random24 random = new Random24(8);
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = random.model(device, TINY);
        Workspace workspace = new Workspace(device)) {
      PackedBatch batch = random.batch(TINY, 1, 40, 17, 2, 1);
      Tensor logits = model.forward(Pass.inference(workspace, batch));
      double[][] expected = new ReferenceBert(TINY, model.parameters(), batch, false, 0).logits();
      float[] found = HostCopy.floats(device, logits);
      for (int t = 0; t < batch.tokens(); t++) {
        assertThat((double) found[2 * t]).isCloseTo(expected[t][0], within(2e-5));
        assertThat((double) found[2 * t + 1]).isCloseTo(expected[t][1], within(2e-5));
      }
    }
  }

  @Test
  void gradientsAddUpOverTwoBatches() {
    Random24 random = new Random24(9);
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = random.model(device, TINY);
        Workspace workspace = new Workspace(device);
        Pool pool = device.openPool()) {
      Tensor loss = pool.allocate(DType.F32, 1);
      int[] starts = {2, 3};
      int[] ends = {2, 5};
      DeviceBatch batch = DeviceBatch.upload(workspace, random.batch(TINY, 6, 9), starts, ends);
      model.prepareTraining();
      model.forwardBackward(Pass.training(workspace, batch, 1), null, null, 1, loss);
      float[] once = model.parameters().get(0).gradient().toFloatArray();
      float lossOnce = loss.getFloat(0);
      model.forwardBackward(Pass.training(workspace, batch, 1), null, null, 1, loss);
      float[] twice = model.parameters().get(0).gradient().toFloatArray();
      for (int i = 0; i < once.length; i++) {
        assertThat(twice[i]).isCloseTo(2 * once[i], within(1e-6f));
      }
      assertThat(loss.getFloat(0)).isCloseTo(2 * lossOnce, within(1e-5f));
    }
  }

  private static org.assertj.core.data.Offset<Double> within(double bound) {
    return org.assertj.core.data.Offset.offset(bound);
  }

  private static org.assertj.core.data.Offset<Float> within(float bound) {
    return org.assertj.core.data.Offset.offset(bound);
  }
}
