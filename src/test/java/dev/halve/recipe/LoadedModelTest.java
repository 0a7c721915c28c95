package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.Tensor;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.Linear;
import dev.halve.engine.PretrainedModel;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import org.junit.jupiter.api.Test;

class LoadedModelTest {
  @Test
  void aFewTwoOfFourRowsAmongDenseOnesAreMasked() {
    int inner = 128 * HybridTensor.BLOCK_ROWS;
    BertConfig config = new BertConfig(64, 16, 1, 2, inner, 24, 2, 1e-12f, 0, 0);
    try (Device cpu = Devices.open("cpu");
        BertForQuestionAnswering model = PretrainedModel.random(cpu, config, 7);
        Arena arena = Arena.ofConfined()) {
      Linear linear = model.bert().layers().getFirst().feedForward().intermediate();
      Tensor weight = linear.weight(arena);
      Tensor pruned = weight.rows(2 * HybridTensor.BLOCK_ROWS, HybridTensor.BLOCK_ROWS);
      for (long i = 0; i < pruned.elements(); i += 4) {
        pruned.setFloat(i + 1, 0);
        pruned.setFloat(i + 3, 0);
      }
      linear.setWeight(weight);
      new LoadedModel(null, null, model).mask(MaskSettings.FIXED);
      Tensor mask = linear.mask(arena);
      for (long i = 0; i < weight.elements(); i++) {
        assertThat(mask.segment().get(ValueLayout.JAVA_BYTE, i))
            .isEqualTo((byte) (weight.getFloat(i) == 0 ? 0 : 1));
      }
      for (Linear other : model.bert().linears()) {
        assertThat(other.mask(arena) == null).as(other.name()).isEqualTo(other != linear);
      }
    }
  }
}
