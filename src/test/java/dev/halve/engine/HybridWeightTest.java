package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.HybridTensor;
import java.lang.foreign.Arena;
import java.util.List;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Weights of dense and 2:4 rows against the formulas in double precision. */
class HybridWeightTest {
  @ParameterizedTest
  @CsvSource({"48, 4, 80", "64, 2, 256", "40, 2, 100"})
  void bothProductsTogetherAreTheWholeProduct(int hidden, int heads, int intermediate) {
    BertConfig config = new BertConfig(30, hidden, 2, heads, intermediate, 64, 2, 1e-12f, 0, 0);
    PackedBatch batch = new Random24(4).batch(config, 3, 17, 40);
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = new Random24(2).model(device, config);
        Workspace workspace = new Workspace(device)) {
      model.bert().linears().forEach(HybridWeightTest::pruneSomeRows);
      double[][] expected = new ReferenceBert(config, model.parameters(), batch, false, 0).logits();
      long denseBytes = model.linearWeightBytes();
      for (Linear linear : model.bert().linears()) {
        try (Arena arena = Arena.ofConfined()) {
          Tensor weight = linear.weight(arena);
          linear.setHybrid(HybridTensor.compress(arena, weight));
          assertThat(linear.weight()).isInstanceOf(Weight.Hybrid.class);
          assertThat(linear.weight(arena).segment().mismatch(weight.segment())).isEqualTo(-1);
        }
      }
      assertThat(model.linearWeightBytes()).isBetween(denseBytes / 2, denseBytes * 9 / 10);
      assertClose(model.forward(Pass.inference(workspace, batch)), expected);
      try (CompiledModel compiled = model.compile(64, 3)) {
        assertClose(compiled.run(batch), expected);
      }
      model.bert().linears().forEach(Linear::toDense);
      assertThat(model.linearWeightBytes()).isEqualTo(denseBytes);
      assertClose(model.forward(Pass.inference(workspace, batch)), expected);
    }
  }

  /** Every block of 16 rows but the second becomes 2:4. */
  private static void pruneSomeRows(Linear linear) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor weight = linear.weight(arena);
      for (long i = 0; i < weight.elements(); i++) {
        long row = i / linear.in();
        if (row / 16 != 1 && (i + row) % 4 < 2) {
          weight.setFloat(i, 0);
        }
      }
      linear.setWeight(weight);
    }
  }

  private static void assertClose(Tensor logits, double[][] expected) {
    float[] found = logits.toFloatArray();
    assertThat(found).hasSize(2 * expected.length);
    for (int i = 0; i < found.length; i++) {
      assertThat((double) found[i]).isCloseTo(expected[i / 2][i % 2], within(1e-4));
    }
  }

  @Test
  void itIsForInferenceAndOfItsLayersShape() {
    BertConfig config = new BertConfig(30, 48, 1, 4, 80, 64, 2, 1e-12f, 0, 0);
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering model = new Random24(2).model(device, config);
        Arena arena = Arena.ofConfined()) {
      Linear query = model.bert().linears().getFirst();
      pruneSomeRows(query);
      HybridTensor hybrid = HybridTensor.compress(arena, query.weight(arena));
      Linear output = model.bert().linears().getLast();
      assertThatThrownBy(() -> output.setHybrid(hybrid))
          .isInstanceOf(HalveException.class)
          .hasMessageContainingAll(output.name(), "[48, 80]", "[48, 48]");
      query.setHybrid(hybrid);
      assertThatThrownBy(() -> query.setWeight(query.weight(arena)))
          .isInstanceOf(HalveException.class)
          .hasMessageContainingAll(query.name(), "inference only");
      List<Parameter> parameters = model.parameters();
      assertThat(parameters).noneMatch(each -> each.name().startsWith(query.name() + ".weight"));
    }
  }
}
