package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;
import static org.assertj.core.api.Assertions.within;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.HostCopy;
import dev.halve.engine.Linear;
import dev.halve.engine.Parameter;
import dev.halve.engine.PretrainedModel;
import dev.halve.report.LossCurve;
import dev.halve.report.Score;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeMap;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class TrainerTest {
  private static Device device;

  @TempDir Path folder;

  @BeforeAll
  static void open() {
    device = Devices.open("cpu");
  }

  @AfterAll
  static void close() {
    device.close();
  }

  private static TrainingSettings settings(int batch, int epochs, int maxSteps) {
    return new TrainingSettings(
        3e-3, TrainingSettings.Schedule.LINEAR, 2, batch, epochs, maxSteps, 1.0, 0, 5, 4, 3600);
  }

  private static double run(Trainer trainer) {
    return trainer.run("train", Progress.NONE, state -> {});
  }

  @Test
  void aHandfulOfRowsIsLearntByHeart() {
    try (BertForQuestionAnswering model = TinyModel.random(device, 0)) {
      model.prepareTraining();
      Trainer trainer =
          new Trainer(model, TinyModel.rows(8), settings(8, 300, 0), TrainingState.START);
      run(trainer);
      var loss = trainer.state().loss();
      // Untrained, every position is about as likely: the logarithm of the row's length.
      assertThat(loss.getFirst().loss()).isBetween(2.0, 3.2);
      assertThat(loss.getLast().loss()).isLessThan(0.05);
      assertThat(loss.getLast().step()).isEqualTo(300);
    }
  }

  @Test
  void stepsAreThoseOfEpochsUnlessMaxStepsSaysOtherwise() {
    try (BertForQuestionAnswering model = TinyModel.random(device, 0)) {
      assertThat(trainer(model, settings(4, 3, 0)).totalSteps()).isEqualTo(9);
      assertThat(trainer(model, settings(4, 3, 2)).totalSteps()).isEqualTo(2);
      assertThat(trainer(model, settings(4, 1, 20)).totalSteps()).isEqualTo(20);
    }
  }

  private static Trainer trainer(BertForQuestionAnswering model, TrainingSettings settings) {
    return new Trainer(model, TinyModel.rows(10), settings, TrainingState.START);
  }

  @Test
  void everyEpochSeesEveryRowOnceInItsOwnOrder() {
    List<TrainingRow> rows = TinyModel.rows(10);
    TrainingOrder order = new TrainingOrder(rows, 4, 11);
    List<List<Integer>> epochs = new ArrayList<>();
    for (int epoch = 0; epoch < 2; epoch++) {
      List<Integer> seen = new ArrayList<>();
      for (int step = 1; step <= 3; step++) {
        TrainingOrder.Batch batch = order.batch(3 * epoch + step);
        assertThat(batch.packed().rows()).isEqualTo(step == 3 ? 2 : 4);
        for (int row = 0; row < batch.packed().rows(); row++) {
          seen.add(indexOf(rows, batch, row));
        }
      }
      epochs.add(seen);
    }
    assertThat(epochs).allSatisfy(seen -> assertThat(new HashSet<>(seen)).hasSize(10));
    assertThat(epochs.get(0)).isNotEqualTo(epochs.get(1));
    assertThat(new TrainingOrder(rows, 4, 12).batch(1).packed().tokenIds())
        .isNotEqualTo(order.batch(1).packed().tokenIds());
  }

  private static int indexOf(List<TrainingRow> rows, TrainingOrder.Batch batch, int row) {
    int[] offsets = batch.packed().rowOffsets();
    int[] tokens = Arrays.copyOfRange(batch.packed().tokenIds(), offsets[row], offsets[row + 1]);
    for (int i = 0; i < rows.size(); i++) {
      if (Arrays.equals(rows.get(i).tokenIds(), tokens)) {
        assertThat(batch.starts()[row]).isEqualTo(rows.get(i).start());
        assertThat(batch.ends()[row]).isEqualTo(rows.get(i).end());
        return i;
      }
    }
    throw new AssertionError("no such row");
  }

  @Test
  void learningRateWarmsUpThenStaysOrFalls() {
    TrainingSettings linear = settings(4, 1, 12);
    assertThat(Trainer.learningRate(linear, 1, 12)).isZero();
    assertThat(Trainer.learningRate(linear, 2, 12)).isCloseTo(1.5e-3, within(1e-12));
    assertThat(Trainer.learningRate(linear, 3, 12)).isCloseTo(3e-3, within(1e-12));
    assertThat(Trainer.learningRate(linear, 8, 12)).isCloseTo(1.5e-3, within(1e-12));
    assertThat(Trainer.learningRate(linear, 12, 12)).isCloseTo(3e-4, within(1e-12));
    assertThat(Trainer.learningRate(TrainingSettings.DEFAULT, 1, 12)).isEqualTo(5e-5);
    assertThat(Trainer.learningRate(TrainingSettings.DEFAULT, 12, 12)).isEqualTo(5e-5);
  }

  private static void prune(BertForQuestionAnswering model) {
    WeightNormSparsifier sparsifier =
        new WeightNormSparsifier(WeightNormSparsifier.Config.SEMI_STRUCTURED);
    sparsifier.prepare(model.bert().linears());
    sparsifier.step();
  }

  @Test
  void prunedWeightsAndTheirMomentsStayExactlyZero() {
    try (BertForQuestionAnswering model = TinyModel.random(device, 0.1f)) {
      prune(model);
      Map<String, byte[]> before = TinyModel.bytes(model);
      model.prepareTraining();
      Trainer trainer = trainer(model, settings(4, 1, 20));
      run(trainer);
      assertThat(model.bert().linears()).hasSize(12);
      for (Linear linear : model.bert().linears()) {
        Parameter parameter = parameter(model, linear.name() + ".weight");
        byte[] mask = HostCopy.bytes(device, parameter.mask());
        byte[] weight = HostCopy.bytes(device, parameter.value());
        byte[] first = HostCopy.bytes(device, parameter.firstMoment());
        byte[] second = HostCopy.bytes(device, parameter.secondMoment());
        int kept = 0;
        for (int i = 0; i < mask.length; i++) {
          kept += mask[i];
          for (byte[] values : List.of(weight, first, second)) {
            boolean zero = Arrays.equals(values, 4 * i, 4 * i + 4, new byte[4], 0, 4);
            if (mask[i] == 0) {
              assertThat(zero).isTrue();
            }
          }
        }
        assertThat(kept).isEqualTo(mask.length / 2);
        assertThat(weight).isNotEqualTo(before.get(parameter.name()));
      }
    }
  }

  private static Parameter parameter(BertForQuestionAnswering model, String name) {
    return model.parameters().stream()
        .filter(parameter -> parameter.name().equals(name))
        .findFirst()
        .orElseThrow();
  }

  private static TrainingSettings accumulating(int batch, int batches, int evalSteps) {
    return new TrainingSettings(
        3e-3,
        TrainingSettings.Schedule.LINEAR,
        2,
        batch,
        5,
        0,
        1.0,
        0,
        5,
        2,
        3600,
        batches,
        evalSteps);
  }

  @Test
  void batchesWhoseGradientsAddUpTrainAsOneLargeBatch() {
    List<Map<String, float[]>> ends = new ArrayList<>();
    List<List<LossCurve.Point>> losses = new ArrayList<>();
    for (TrainingSettings settings : List.of(accumulating(4, 1, 0), accumulating(2, 2, 0))) {
      try (BertForQuestionAnswering model = TinyModel.random(device, 0)) {
        model.prepareTraining();
        Trainer trainer = new Trainer(model, TinyModel.rows(8), settings, TrainingState.START);
        assertThat(trainer.totalSteps()).isEqualTo(10);
        run(trainer);
        losses.add(trainer.state().loss());
        Map<String, float[]> end = new TreeMap<>();
        for (Parameter each : model.parameters()) {
          end.put(each.name(), HostCopy.floats(device, each.value()));
        }
        ends.add(end);
      }
    }
    for (int i = 0; i < losses.get(0).size(); i++) {
      assertThat(losses.get(1).get(i).loss()).isCloseTo(losses.get(0).get(i).loss(), within(1e-4));
    }
    ends.get(0)
        .forEach((name, expected) -> {
          // A key's bias and the head's shift all of a row alike: they have no gradient but
          // rounding, of which AdamW makes steps of full size.
          if (!name.endsWith("key.bias") && !name.equals("qa_outputs.bias")) {
            assertThat(ends.get(1).get(name)).as(name).containsExactly(expected, within(2e-4f));
          }
        });
  }

  @Test
  void theModelIsScoredAsOftenAsTheSettingsSay() {
    try (BertForQuestionAnswering model = TinyModel.random(device, 0.1f)) {
      model.prepareTraining();
      Trainer trainer =
          new Trainer(model, TinyModel.rows(8), accumulating(4, 1, 4), TrainingState.START);
      int[] asked = new int[1];
      trainer.evaluateBy(() -> new Score(++asked[0], 10 * asked[0]));
      run(trainer);
      assertThat(trainer.state().scores())
          .containsExactly(new LossCurve.ScorePoint(4, 1, 10), new LossCurve.ScorePoint(8, 2, 20));
    }
  }

  @ParameterizedTest
  @ValueSource(ints = {1, 2, 3, 4, 7, 12})
  void aResumedTrainingEndsWithTheSameBits(int stopAt) {
    TrainingSettings settings = settings(4, 1, 13);
    Map<String, byte[]> straight;
    List<LossCurve.Point> loss;
    try (BertForQuestionAnswering model = TinyModel.random(device, 0.1f)) {
      prune(model);
      model.prepareTraining();
      Trainer trainer = trainer(model, settings);
      run(trainer);
      straight = TinyModel.bytes(model);
      loss = trainer.state().loss();
    }
    Path file = folder.resolve("checkpoint.safetensors");
    try (BertForQuestionAnswering model = TinyModel.random(device, 0.1f)) {
      prune(model);
      model.prepareTraining();
      Trainer trainer = trainer(model, settings);
      assertThatThrownBy(() ->
              trainer.run(
                  "train", new StopAfter(stopAt), state -> Checkpoint.write(file, model, state)))
          .isInstanceOf(StoppedException.class)
          .hasMessageContaining("step " + stopAt + " of 13");
    }
    try (BertForQuestionAnswering model =
            PretrainedModel.random(device, TinyModel.CONFIG.withDropout(0.1f, 0.1f), 99);
        Checkpoint checkpoint = Checkpoint.open(file)) {
      checkpoint.restore(model);
      TrainingState state = checkpoint.record(TrainingState.class);
      assertThat(state.step()).isEqualTo(stopAt);
      Trainer trainer = new Trainer(model, TinyModel.rows(10), settings, state);
      run(trainer);
      assertThat(trainer.state().loss()).isEqualTo(loss);
      Map<String, byte[]> resumed = TinyModel.bytes(model);
      assertThat(resumed.keySet()).isEqualTo(straight.keySet());
      resumed.forEach((name, bytes) -> assertThat(bytes).as(name).isEqualTo(straight.get(name)));
    }
  }

  @Test
  void otherSeedsGiveOtherWeights() {
    Set<Integer> hashes = new HashSet<>();
    for (long seed = 0; seed < 3; seed++) {
      try (BertForQuestionAnswering model = TinyModel.random(device, 0.1f)) {
        model.prepareTraining();
        TrainingSettings settings =
            new TrainingSettings(
                3e-3, TrainingSettings.Schedule.CONSTANT, 0, 10, 1, 2, 1.0, 0, seed, 4, 3600);
        run(trainer(model, settings));
        hashes.add(Arrays.hashCode(TinyModel.bytes(model).firstEntry().getValue()));
      }
    }
    assertThat(hashes).hasSize(3);
  }

  @Test
  void aCheckpointIsWrittenAsOftenAsAsked() {
    try (BertForQuestionAnswering model = TinyModel.random(device, 0)) {
      model.prepareTraining();
      List<Integer> kept = new ArrayList<>();
      TrainingSettings often =
          new TrainingSettings(
              1e-3, TrainingSettings.Schedule.CONSTANT, 0, 4, 1, 4, 1.0, 0, 0, 50, 0);
      trainer(model, often).run("train", Progress.NONE, state -> kept.add(state.step()));
      assertThat(kept).containsExactly(1, 2, 3);
    }
  }

  @Test
  void aLossThatIsNoNumberEndsTheTraining() {
    try (BertForQuestionAnswering model = TinyModel.random(device, 0);
        Arena arena = Arena.ofConfined()) {
      Linear head = model.qaOutputs();
      Tensor weight = head.weight(arena);
      weight.setFloat(0, Float.NaN);
      head.setWeight(weight);
      model.prepareTraining();
      Trainer trainer = trainer(model, settings(4, 1, 20));
      assertThatThrownBy(() -> run(trainer))
          .isInstanceOf(HalveException.class)
          .hasMessage("the loss is NaN at step 4; lower the learning rate (0.003)");
    }
  }

  @Test
  void rowsThatTheModelCannotTakeAreRefused() {
    try (BertForQuestionAnswering model = TinyModel.random(device, 0)) {
      model.prepareTraining();
      TrainingRow tooLong = new TrainingRow(new int[25], new int[25], 0, 0);
      assertThatThrownBy(() ->
              run(new Trainer(model, List.of(tooLong), settings(1, 1, 0), TrainingState.START)))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("25 tokens is longer than the model's 24 positions");
      assertThatThrownBy(
              () -> new Trainer(model, List.of(), settings(1, 1, 0), TrainingState.START))
          .isInstanceOf(HalveException.class)
          .hasMessage("there are no questions to train on");
    }
  }
}
