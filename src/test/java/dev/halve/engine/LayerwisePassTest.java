package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;

class LayerwisePassTest {
  private static final BertConfig CONFIG =
      new BertConfig(20, 8, 2, 2, 12, 16, 2, 1e-12f, 0.1f, 0.1f);
  private static final PackedBatch FIRST =
      new PackedBatch(
          new int[] {1, 5, 7, 2, 1, 9, 2}, new int[] {0, 0, 1, 1, 0, 1, 1}, new int[] {0, 4, 7});
  private static final PackedBatch SECOND =
      new PackedBatch(new int[] {3, 4, 18}, new int[] {0, 0, 1}, new int[] {0, 3});

  @Test
  void everyProductSeesWhatTheFormulasGiveItBehindTheWeightsAsTheyHaveBecome() {
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = PretrainedModel.random(device, CONFIG, 3);
        LayerwisePass pass = new LayerwisePass(model.bert(), List.of(FIRST, SECOND))) {
      Map<String, List<float[]>> seen = new HashMap<>();
      int stops = 0;
      for (var stop = pass.next(); stop != null; stop = pass.next()) {
        stops++;
        for (Linear reader : stop.readers()) {
          List<float[]> batches = new ArrayList<>();
          pass.eachInput(input -> batches.add(input.toFloatArray()));
          seen.put(reader.name(), batches);
          productsAreThoseOf(batches, reader.in(), pass);
          change(reader);
        }
      }
      assertThat(stops).isEqualTo(8).isEqualTo(pass.stops());
      assertThat(seen).hasSize(12);
      for (int batch = 0; batch < 2; batch++) {
        ReferenceBert reference =
            new ReferenceBert(
                CONFIG, model.parameters(), List.of(FIRST, SECOND).get(batch), false, 0);
        reference.encode();
        for (Linear linear : model.bert().linears()) {
          double[][] expected = reference.input(linear.name());
          float[] found = seen.get(linear.name()).get(batch);
          assertThat(found).hasSize(expected.length * linear.in());
          for (int i = 0; i < found.length; i++) {
            assertThat((double) found[i])
                .as(linear.name())
                .isCloseTo(expected[i / linear.in()][i % linear.in()], within(1e-5));
          }
        }
      }
    }
  }

  private static void productsAreThoseOf(List<float[]> inputs, int in, LayerwisePass pass) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor products = pass.inputProducts(arena);
      assertThat(products.shape()).isEqualTo(Shape.of(in, in));
      assertThat(pass.tokens()).isEqualTo(10);
      for (int i = 0; i < in; i++) {
        for (int j = i; j < in; j++) {
          double sum = 0;
          double size = 1;
          for (float[] x : inputs) {
            for (int at = 0; at < x.length; at += in) {
              sum += (double) x[at + i] * x[at + j];
              size += Math.abs((double) x[at + i] * x[at + j]);
            }
          }
          assertThat((double) products.getFloat((long) i * in + j))
              .isCloseTo(sum, within(1e-6 * size));
        }
      }
    }
  }

  /** Large enough that a product which had not seen it would be far off. */
  private static void change(Linear linear) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor weight = linear.weight(arena);
      for (long i = 0; i < weight.elements(); i++) {
        weight.setFloat(i, 30 * weight.getFloat(i));
      }
      linear.setWeight(weight);
    }
  }

  @Test
  void aRowThatTheModelCannotTakeIsRefused() {
    PackedBatch tooLong = new PackedBatch(new int[17], new int[17], new int[] {0, 17});
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = PretrainedModel.random(device, CONFIG, 3)) {
      assertThatThrownBy(() -> new LayerwisePass(model.bert(), List.of(tooLong)))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("17 tokens");
    }
  }
}
