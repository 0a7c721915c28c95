package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class BlockReconstructionTest {
  private static final BertConfig CONFIG =
      new BertConfig(40, 16, 2, 2, 32, 24, 2, 1e-12f, 0.1f, 0.1f);

  private static List<PackedBatch> batches() {
    Random24 random = new Random24(8);
    List<PackedBatch> batches = new ArrayList<>();
    for (int i = 0; i < 4; i++) {
      batches.add(random.batch(CONFIG, 24, 9 + i, 1, 17));
    }
    return batches;
  }

  /** Large weights, so that pruning them does harm. */
  private static BertForQuestionAnswering model(Device device) {
    BertForQuestionAnswering model = PretrainedModel.random(device, CONFIG, 3);
    for (Linear linear : model.bert().linears()) {
      try (Arena arena = Arena.ofConfined()) {
        Tensor weight = linear.weight(arena);
        for (long i = 0; i < weight.elements(); i++) {
          weight.setFloat(i, 12 * weight.getFloat(i));
        }
        linear.setWeight(weight);
      }
    }
    return model;
  }

  private static void prune(BertForQuestionAnswering model) {
    for (Linear linear : model.bert().linears()) {
      try (Arena arena = Arena.ofConfined()) {
        linear.setMask(Tensor.allocate(arena, DType.U8, linear.weight().shape().extents()));
        linear.chooseMask();
        Tensor weight = linear.weight(arena);
        Tensor mask = linear.mask(arena);
        for (long i = 0; i < weight.elements(); i++) {
          weight.setFloat(i, mask.segment().get(ValueLayout.JAVA_BYTE, i) * weight.getFloat(i));
        }
        linear.setWeight(weight);
      }
    }
  }

  private static List<BlockReconstruction.Fit> run(
      BertForQuestionAnswering dense, BertForQuestionAnswering pruned, int steps) {
    List<BlockReconstruction.Fit> fits = new ArrayList<>();
    try (BlockReconstruction reconstruction =
        new BlockReconstruction(dense.bert(), pruned.bert(), batches())) {
      for (int block = 0; block < reconstruction.blocks(); block++) {
        fits.add(reconstruction.next(steps, step -> 5e-3 * (1 - (double) step / steps)));
      }
    }
    return fits;
  }

  @Test
  void everyBlocksErrorFallsUnderItsMaskAndTheSameEachTime() {
    List<byte[]> before = null;
    for (int run = 0; run < 2; run++) {
      try (Device device = Devices.open("cpu");
          BertForQuestionAnswering dense = model(device);
          BertForQuestionAnswering pruned = model(device)) {
        List<byte[]> taught = bytes(dense);
        prune(pruned);
        List<byte[]> masks = masks(pruned);
        List<BlockReconstruction.Fit> fits = run(dense, pruned, 150);
        assertThat(fits).hasSize(4);
        assertThat(fits).allSatisfy(fit -> assertThat(fit.after()).isLessThan(0.6 * fit.before()));
        assertThat(bytes(dense)).usingRecursiveComparison().isEqualTo(taught);
        assertThat(masks(pruned)).usingRecursiveComparison().isEqualTo(masks);
        for (Linear linear : pruned.bert().linears()) {
          try (Arena arena = Arena.ofConfined()) {
            Tensor weight = linear.weight(arena);
            Tensor mask = linear.mask(arena);
            for (long i = 0; i < weight.elements(); i++) {
              if (mask.segment().get(ValueLayout.JAVA_BYTE, i) == 0) {
                assertThat(Float.floatToRawIntBits(weight.getFloat(i))).isZero();
              }
            }
          }
        }
        if (run == 0) {
          before = bytes(pruned);
        } else {
          assertThat(bytes(pruned)).usingRecursiveComparison().isEqualTo(before);
        }
      }
    }
  }

  /** Against the formulas in double precision: each model's own run, block by block. */
  @Test
  void theErrorIsThatOfTheOutputsOfTheTwoModels() {
    try (Device device = Devices.open("cpu");
        BertForQuestionAnswering dense = model(device);
        BertForQuestionAnswering pruned = model(device)) {
      prune(pruned);
      List<BlockReconstruction.Fit> fits = run(dense, pruned, 0);
      double[] expected = new double[fits.size()];
      for (PackedBatch batch : batches()) {
        ReferenceBert target = new ReferenceBert(CONFIG, dense.parameters(), batch, false, 0);
        ReferenceBert found = new ReferenceBert(CONFIG, pruned.parameters(), batch, false, 0);
        double[][] targetOut = target.encode();
        double[][] foundOut = found.encode();
        String next = "bert.encoder.layer.1.attention.self.query";
        expected[0] += error(target, found, "bert.encoder.layer.0.intermediate.dense");
        expected[1] += error(target, found, next);
        expected[2] += error(target, found, "bert.encoder.layer.1.intermediate.dense");
        expected[3] += error(targetOut, foundOut);
      }
      for (int block = 0; block < expected.length; block++) {
        double mean = expected[block] / batches().size();
        assertThat(mean).isGreaterThan(1e-2);
        assertThat(fits.get(block).before()).isCloseTo(mean, within(1e-5 * mean));
        assertThat(fits.get(block).after()).isEqualTo(fits.get(block).before());
      }
    }
  }

  private static double error(ReferenceBert target, ReferenceBert found, String reader) {
    return error(target.input(reader), found.input(reader));
  }

  private static double error(double[][] target, double[][] found) {
    double error = 0;
    double norm = 0;
    for (int token = 0; token < target.length; token++) {
      for (int i = 0; i < target[token].length; i++) {
        error += Math.pow(found[token][i] - target[token][i], 2);
        norm += Math.pow(target[token][i], 2);
      }
    }
    return error / norm;
  }

  private static List<byte[]> bytes(BertForQuestionAnswering model) {
    return model.parameters().stream()
        .map(each -> each.value().segment().toArray(ValueLayout.JAVA_BYTE))
        .toList();
  }

  private static List<byte[]> masks(BertForQuestionAnswering model) {
    return model.parameters().stream()
        .filter(each -> each.mask() != null)
        .map(each -> each.mask().segment().toArray(ValueLayout.JAVA_BYTE))
        .toList();
  }
}
