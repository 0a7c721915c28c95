package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.core.sparsify.Gram;
import dev.halve.core.sparsify.InputMoments;
import dev.halve.core.sparsify.NOfM;
import dev.halve.core.sparsify.SparseGptSparsifier;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.PretrainedModel;
import dev.halve.engine.ReferenceBert;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;

class PruningTest {
  private static final List<PackedBatch> TEXT = batches();

  private final Arena arena = Arena.ofConfined();
  private final Device device = Devices.open("cpu");
  private final BertForQuestionAnswering model =
      PretrainedModel.random(device, TinyModel.CONFIG, 11);
  private final Map<String, Tensor> dense = weights();

  @AfterEach
  void close() {
    model.close();
    device.close();
    arena.close();
  }

  private static List<PackedBatch> batches() {
    List<PackedBatch> batches = new ArrayList<>();
    for (int from = 0; from < 12; from += 4) {
      List<TrainingRow> rows = TinyModel.rows(12).subList(from, from + 4);
      batches.add(
          PackedBatch.of(
              rows.stream().map(TrainingRow::tokenIds).toArray(int[][]::new),
              rows.stream().map(TrainingRow::typeIds).toArray(int[][]::new)));
    }
    return batches;
  }

  private static PruningPlan plan(PruningMethod method, boolean permute, String... keepDense) {
    CalibrationSettings text = new CalibrationSettings(Path.of("text"), 12, 24, 0);
    return new PruningPlan(
        method,
        PruningSettings.SEMI_STRUCTURED,
        NOfM.TWO_OF_FOUR,
        permute,
        0.01,
        text,
        List.of(keepDense),
        0,
        0);
  }

  private Map<String, Tensor> weights() {
    Map<String, Tensor> weights = new HashMap<>();
    for (Linear linear : model.bert().linears()) {
      weights.put(linear.name(), linear.weight(arena));
    }
    return weights;
  }

  /** What goes into every layer of the model as it is now, in double precision. */
  private Map<String, List<double[]>> inputs() {
    Map<String, List<double[]>> inputs = new HashMap<>();
    for (PackedBatch batch : TEXT) {
      ReferenceBert reference =
          new ReferenceBert(TinyModel.CONFIG, model.parameters(), batch, false, 0);
      reference.encode();
      for (Linear linear : model.bert().linears()) {
        inputs
            .computeIfAbsent(linear.name(), name -> new ArrayList<>())
            .addAll(List.of(reference.input(linear.name())));
      }
    }
    return inputs;
  }

  @Test
  void wandaKeepsWhatIsLargestTimesTheNormOfItsInputInTheModelPrunedSoFar() {
    Pruning.prune(model.bert(), plan(PruningMethod.WANDA, false), TEXT, Progress.NONE);
    // A layer's inputs depend on the layers before it alone: those of the pruned model are the
    // ones that each layer was calibrated on.
    Map<String, List<double[]>> inputs = inputs();
    int differing = 0;
    for (Linear linear : model.bert().linears()) {
      Tensor before = dense.get(linear.name());
      Tensor after = linear.weight(arena);
      for (int row = 0; row < linear.out(); row++) {
        for (int first = 0; first < linear.in(); first += 4) {
          double[] scores = new double[4];
          double[] magnitudes = new double[4];
          for (int i = 0; i < 4; i++) {
            int column = first + i;
            double squares =
                inputs.get(linear.name()).stream().mapToDouble(x -> x[column] * x[column]).sum();
            magnitudes[i] = Math.abs(before.getFloat((long) row * linear.in() + column));
            scores[i] = magnitudes[i] * Math.sqrt(squares);
          }
          for (int i = 0; i < 4; i++) {
            long index = (long) row * linear.in() + first + i;
            boolean kept = isAmongTwoLargest(scores, i);
            assertThat(after.getFloat(index))
                .as(linear.name())
                .isEqualTo(kept ? before.getFloat(index) : 0f);
            differing += kept == isAmongTwoLargest(magnitudes, i) ? 0 : 1;
          }
        }
      }
    }
    assertThat(differing).as("elements that magnitude treats otherwise").isPositive();
  }

  private static boolean isAmongTwoLargest(double[] scores, int i) {
    int larger = 0;
    for (double each : scores) {
      larger += each > scores[i] ? 1 : 0;
    }
    return larger < 2;
  }

  @Test
  void sparseGptCalibratesEveryLayerOnThePrunedOnesBeforeIt() {
    Pruning.prune(model.bert(), plan(PruningMethod.SPARSEGPT, false), TEXT, Progress.NONE);
    Map<String, List<double[]>> inputs = inputs();
    for (Linear linear : model.bert().linears()) {
      Tensor expected = dense.get(linear.name());
      Tensor mask = Tensor.allocate(arena, DType.U8, expected.shape().extents());
      try (InputMoments moments = new InputMoments(linear.in())) {
        for (double[] token : inputs.get(linear.name())) {
          float[] rounded = new float[linear.in()];
          for (int i = 0; i < rounded.length; i++) {
            rounded[i] = (float) token[i];
          }
          moments.add(Gram.of(arena, Tensor.of(arena, rounded, 1, linear.in())), 1);
        }
        SparseGptSparsifier.prune(expected, mask, moments, NOfM.TWO_OF_FOUR, 0.01);
      }
      Tensor after = linear.weight(arena);
      assertThat(SparsityPattern.of(after).semiStructured()).isTrue();
      for (long i = 0; i < after.elements(); i++) {
        assertThat(after.getFloat(i))
            .as(linear.name())
            .isCloseTo(expected.getFloat(i), within(1e-4f));
      }
    }
  }

  @Test
  void permutedChannelsLeaveTheModelTheSameFunctionAndComeBackBitForBit() {
    double[][] before = encode();
    PermutedChannels channels = PermutedChannels.permute(model.bert(), Map.of(), 0, Progress.NONE);
    int moved = 0;
    for (Linear linear : model.bert().linears()) {
      Tensor was = dense.get(linear.name());
      moved += linear.weight(arena).segment().mismatch(was.segment()) >= 0 ? 1 : 0;
    }
    // Value, attention output, intermediate and output of both layers; not query and key.
    assertThat(moved).isEqualTo(8);
    double[][] after = encode();
    for (int token = 0; token < before.length; token++) {
      assertThat(after[token]).containsExactly(before[token], within(1e-12));
    }
    channels.undo();
    for (Linear linear : model.bert().linears()) {
      assertThat(linear.weight(arena).segment().mismatch(dense.get(linear.name()).segment()))
          .as(linear.name())
          .isEqualTo(-1);
    }
    assertThat(encode()).isDeepEqualTo(before);
  }

  private double[][] encode() {
    return new ReferenceBert(TinyModel.CONFIG, model.parameters(), TEXT.getFirst(), false, 0)
        .encode();
  }

  @Test
  void permutedChannelsLoseLessMagnitude() {
    double without = kept(plan(PruningMethod.MAGNITUDE, false));
    dense.forEach((name, weight) -> linear(name).setWeight(weight));
    assertThat(kept(plan(PruningMethod.MAGNITUDE, true))).isGreaterThan(1.005 * without);
  }

  private double kept(PruningPlan plan) {
    Pruning.prune(model.bert(), plan, List.of(), Progress.NONE);
    double kept = 0;
    for (Linear linear : model.bert().linears()) {
      Tensor weight = linear.weight(arena);
      assertThat(SparsityPattern.of(weight).semiStructured()).isTrue();
      for (long i = 0; i < weight.elements(); i++) {
        kept += Math.abs(weight.getFloat(i));
      }
    }
    return kept;
  }

  private Linear linear(String name) {
    return model.bert().linears().stream()
        .filter(each -> each.name().equals(name))
        .findFirst()
        .orElseThrow();
  }

  @Test
  void reconstructionErrorsAreThoseOfTheProductsOnTheDenseModelsInputs() {
    Map<String, List<double[]>> inputs = inputs();
    try (ReconstructionError error = new ReconstructionError(model.bert(), TEXT, Progress.NONE)) {
      error.of(model.bert()).values().forEach(each -> assertThat(each).isZero());
      Pruning.prune(
          model.bert(), plan(PruningMethod.SPARSEGPT, false, "*.key"), TEXT, Progress.NONE);
      Map<String, Double> found = error.of(model.bert());
      assertThat(found).hasSize(12);
      for (Linear linear : model.bert().linears()) {
        Tensor before = dense.get(linear.name());
        Tensor after = linear.weight(arena);
        double changed = 0;
        double whole = 0;
        for (double[] x : inputs.get(linear.name())) {
          for (int row = 0; row < linear.out(); row++) {
            double was = 0;
            double is = 0;
            for (int i = 0; i < linear.in(); i++) {
              was += x[i] * before.getFloat((long) row * linear.in() + i);
              is += x[i] * after.getFloat((long) row * linear.in() + i);
            }
            changed += (was - is) * (was - is);
            whole += was * was;
          }
        }
        assertThat(found.get(linear.name()))
            .as(linear.name())
            .isCloseTo(changed / whole, within(1e-4 * changed / whole + 1e-12));
        assertThat(changed > 0).isEqualTo(!linear.name().endsWith("key"));
      }
    }
  }

  @Test
  void theRowsThatPruningHurtsMostStayDense() {
    PruningPlan plan = plan(PruningMethod.SPARSEGPT, false).keepingRowsDense(0.5);
    Pruning.prune(model.bert(), plan, TEXT, Progress.NONE);
    Map<String, List<double[]>> inputs = inputs();
    for (Linear linear : model.bert().linears()) {
      Tensor before = dense.get(linear.name());
      Tensor expected = linear.weight(arena);
      expected.copyFrom(before);
      try (InputMoments moments = new InputMoments(linear.in())) {
        for (double[] token : inputs.get(linear.name())) {
          float[] rounded = new float[linear.in()];
          for (int i = 0; i < rounded.length; i++) {
            rounded[i] = (float) token[i];
          }
          moments.add(Gram.of(arena, Tensor.of(arena, rounded, 1, linear.in())), 1);
        }
        Tensor mask = Tensor.allocate(arena, DType.U8, expected.shape().extents());
        SparseGptSparsifier.prune(expected, mask, moments, NOfM.TWO_OF_FOUR, 0.01);
      }
      int blocks = linear.out() / 16;
      double[] hurt = new double[blocks];
      for (double[] x : inputs.get(linear.name())) {
        for (int row = 0; row < linear.out(); row++) {
          double change = 0;
          for (int i = 0; i < linear.in(); i++) {
            long index = (long) row * linear.in() + i;
            change += x[i] * (before.getFloat(index) - expected.getFloat(index));
          }
          hurt[row / 16] += change * change;
        }
      }
      // One of the two blocks of an intermediate layer; a weight of one block is pruned whole.
      int kept = blocks == 1 ? -1 : hurt[0] > hurt[1] ? 0 : 1;
      Tensor after = linear.weight(arena);
      for (int row = 0; row < linear.out(); row++) {
        Tensor source = row / 16 == kept ? before : expected;
        for (int i = 0; i < linear.in(); i++) {
          long index = (long) row * linear.in() + i;
          assertThat(after.getFloat(index))
              .as(linear.name())
              .isCloseTo(source.getFloat(index), within(row / 16 == kept ? 0f : 1e-4f));
        }
      }
    }
  }

  @Test
  void withoutMomentsRowsAreChosenByTheirOwnMeasure() {
    for (PruningMethod method : List.of(PruningMethod.MAGNITUDE, PruningMethod.WANDA)) {
      dense.forEach((name, weight) -> linear(name).setWeight(weight));
      PruningPlan plan = plan(method, false).keepingRowsDense(0.5);
      Pruning.prune(model.bert(), plan, TEXT, Progress.NONE);
      Map<String, List<double[]>> inputs = inputs();
      String name = "bert.encoder.layer.1.intermediate.dense";
      Tensor before = dense.get(name);
      Tensor after = linear(name).weight(arena);
      double[] lost = new double[2];
      for (int row = 0; row < 32; row++) {
        for (int first = 0; first < 16; first += 4) {
          double[] scores = new double[4];
          for (int i = 0; i < 4; i++) {
            int column = first + i;
            double squares =
                method == PruningMethod.WANDA
                    ? inputs.get(name).stream().mapToDouble(x -> x[column] * x[column]).sum()
                    : 1;
            scores[i] = Math.abs(before.getFloat(row * 16L + column)) * Math.sqrt(squares);
          }
          for (int i = 0; i < 4; i++) {
            lost[row / 16] += isAmongTwoLargest(scores, i) ? 0 : scores[i] * scores[i];
          }
        }
      }
      int kept = lost[0] > lost[1] ? 0 : 1;
      assertThat(same(before, after, kept)).isTrue();
      assertThat(same(before, after, 1 - kept)).isFalse();
    }
  }

  private static boolean same(Tensor before, Tensor after, int block) {
    return before.rows(block * 16L, 16).segment().mismatch(after.rows(block * 16L, 16).segment())
        == -1;
  }

  @Test
  void layersThatAreKeptDenseStayAsTheyAre() {
    PruningPlan plan = plan(PruningMethod.SPARSEGPT, false, "*.layer.0.*", "*.value.weight");
    Pruning.prune(model.bert(), plan, TEXT, Progress.NONE);
    for (Linear linear : model.bert().linears()) {
      boolean keeps = linear.name().contains("layer.0.") || linear.name().endsWith("value");
      assertThat(linear.weight(arena).segment().mismatch(dense.get(linear.name()).segment()) < 0)
          .as(linear.name())
          .isEqualTo(keeps);
    }
  }

  @Test
  void activationsThatAreNotFiniteAreRefusedByName() {
    String name = "bert.encoder.layer.1.attention.self.query";
    Tensor infinite = dense.get("bert.encoder.layer.0.output.dense");
    infinite.setFloat(3, Float.POSITIVE_INFINITY);
    linear("bert.encoder.layer.0.output.dense").setWeight(infinite);
    for (PruningMethod method : List.of(PruningMethod.WANDA, PruningMethod.SPARSEGPT)) {
      PruningPlan plan = plan(method, false, "*.layer.0.*");
      assertThatThrownBy(() -> Pruning.prune(model.bert(), plan, TEXT, Progress.NONE))
          .isInstanceOf(HalveException.class)
          .hasMessageContainingAll(name, "NaN or infinity");
    }
  }

  @Test
  void plansThatCannotBeCarriedOutAreRefused() {
    assertThatThrownBy(() -> plan(PruningMethod.WANDA, false).withCalibration(null))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("wanda needs text to calibrate on");
    PruningPlan unknown = plan(PruningMethod.MAGNITUDE, false, "*.layer.7.*");
    assertThatThrownBy(() -> Pruning.prune(model.bert(), unknown, TEXT, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageContainingAll("'*.layer.7.*'", "bert.encoder.layer.0.attention.self.query");
    PruningPlan nothing = plan(PruningMethod.MAGNITUDE, false, "*");
    assertThatThrownBy(() -> Pruning.prune(model.bert(), nothing, TEXT, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("nothing is left to prune");
  }
}
