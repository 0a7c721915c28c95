package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.Linear;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class RecoveryTest {
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

  private static TrainingSettings settings(int steps) {
    return new TrainingSettings(
        3e-3, TrainingSettings.Schedule.LINEAR, 2, 10, 1, steps, 1.0, 0, 5, 5, 3600);
  }

  private static RecoverySettings fading(
      double labelWeight, double logitWeight, double hiddenWeight, double temperature) {
    return new RecoverySettings(
        labelWeight, logitWeight, hiddenWeight, temperature, masks(0.9, 0, null, 4, 0.5));
  }

  private static MaskSettings masks(
      double keep, double decay, MaskSettings.Growth growth, int steps, double share) {
    return new MaskSettings(keep, decay, growth, steps, share, PruningSettings.SEMI_STRUCTURED);
  }

  private static BertForQuestionAnswering masked(MaskSettings masks) {
    BertForQuestionAnswering model = TinyModel.random(device, 0.1f);
    if (masks.growth() == null) {
      mask(model);
    }
    if (masks.straightThrough()) {
      model.bert().linears().forEach(Linear::trainStraightThrough);
    }
    return model;
  }

  private static void mask(BertForQuestionAnswering model) {
    for (Linear linear : model.bert().linears()) {
      try (Arena arena = Arena.ofConfined()) {
        linear.setMask(Tensor.allocate(arena, DType.U8, linear.weight().shape().extents()));
      }
      linear.chooseMask();
    }
  }

  @Test
  void whenMasksAreChosenIsAFunctionOfTheStep() {
    RecoverySettings fading = fading(1, 0, 0, 1);
    List<Integer> chosen = new ArrayList<>();
    for (int step = 1; step <= 20; step++) {
      if (fading.masks().choosesBefore(step, 20)) {
        chosen.add(step);
      }
      assertThat(fading.masks().keep(step, 20)).isEqualTo(step <= 10 ? 0.9 : 0);
      assertThat(RecoverySettings.PLAIN.masks().choosesBefore(step, 20)).isFalse();
      assertThat(RecoverySettings.PLAIN.masks().keep(step, 20)).isZero();
    }
    assertThat(chosen).containsExactly(1, 5, 9, 11);
  }

  @Test
  void whatIsDoneToMaskedWeightsEndsWithTheChoosing() {
    MaskSettings decaying = masks(0, 6e-5, null, 1, 0.5);
    for (int step = 1; step <= 20; step++) {
      assertThat(decaying.choosesBefore(step, 20)).isEqualTo(step <= 11);
      assertThat(decaying.keep(step, 20)).isEqualTo(step <= 10 ? 1 : 0);
      assertThat(decaying.decay(step, 20)).isEqualTo(step <= 10 ? 6e-5 : 0);
    }
  }

  @Test
  void masksGrowToTheirPatternWhateverTheSettings() {
    List<Double> levels = new ArrayList<>();
    MaskSettings linear = masks(0, 0, MaskSettings.Growth.LINEAR, 4, 0.5);
    for (int step = 1; step <= 20; step++) {
      assertThat(linear.keep(step, 20)).isZero();
      if (linear.choosesBefore(step, 20)) {
        levels.add(linear.schedule(20).level(step - 1));
      }
    }
    assertThat(levels).containsExactly(0.0, 0.5, 1.0);
    MaskSettings cubic = masks(0, 0, MaskSettings.Growth.CUBIC, 5, 0.5);
    assertThat(cubic.schedule(20).level(5)).isEqualTo(0.875);
    for (MaskSettings.Growth growth : MaskSettings.Growth.values()) {
      for (int steps : new int[] {1, 2, 20, 50}) {
        for (double share : new double[] {0, 0.5, 1}) {
          for (int total : new int[] {1, 2, 20}) {
            MaskSettings masks = masks(0, 0, growth, steps, share);
            assertThat(masks.schedule(total).level(total - 1)).as("%s", masks).isEqualTo(1);
          }
        }
      }
    }
  }

  @ParameterizedTest
  @CsvSource({
    "0.9, 0, , 0.5",
    "0.9, 0, , 1",
    "0, 1e-3, , 0.5",
    "0, 1e-3, , 1",
    "0, 0, ONE_SHOT, 0.5",
    "0, 0, CUBIC, 0.5",
    "0, 0, LINEAR, 1"
  })
  void masksThatAreChosenInTrainingEndExactlyTwoOfFour(
      double keep, double decay, MaskSettings.Growth growth, double share) {
    RecoverySettings recovery =
        RecoverySettings.PLAIN.withMasks(masks(keep, decay, growth, 4, share));
    try (BertForQuestionAnswering model = masked(recovery.masks())) {
      model.prepareTraining();
      Map<String, byte[]> first = TinyModel.bytes(model);
      Trainer trainer =
          new Trainer(model, TinyModel.rows(10), settings(20), recovery, null, TrainingState.START);
      trainer.run("train", Progress.NONE, state -> {});
      assertThat(TinyModel.bytes(model)).isNotEqualTo(first);
      for (Linear linear : model.bert().linears()) {
        try (Arena arena = Arena.ofConfined()) {
          SparsityPattern pattern = SparsityPattern.of(linear.weight(arena));
          assertThat(pattern.semiStructured()).as(linear.name()).isTrue();
          assertThat(pattern.sparsity()).isEqualTo(0.5);
        }
      }
    }
  }

  @Test
  void aStudentComesNearerToItsTeacherWithoutLabels() {
    RecoverySettings unlabelled = new RecoverySettings(0, 0.9, 5, 2, MaskSettings.FIXED);
    List<TrainingRow> rows =
        TinyModel.rows(10).stream()
            .map(row -> new TrainingRow(row.tokenIds(), row.typeIds(), 0, 0))
            .toList();
    try (BertForQuestionAnswering teacher = TinyModel.random(device, 0);
        BertForQuestionAnswering student = TinyModel.random(device, 0)) {
      Map<String, byte[]> taught = TinyModel.bytes(teacher);
      mask(student);
      for (Linear linear : student.bert().linears()) {
        try (Arena arena = Arena.ofConfined()) {
          Tensor weight = linear.weight(arena);
          Tensor mask = linear.mask(arena);
          for (long i = 0; i < weight.elements(); i++) {
            weight.setFloat(i, mask.segment().get(ValueLayout.JAVA_BYTE, i) * weight.getFloat(i));
          }
          linear.setWeight(weight);
        }
      }
      student.prepareTraining();
      Trainer trainer =
          new Trainer(student, rows, settings(60), unlabelled, teacher, TrainingState.START);
      trainer.run("train", Progress.NONE, state -> {});
      var loss = trainer.state().loss();
      assertThat(loss.getLast().loss()).isPositive().isLessThan(0.5 * loss.getFirst().loss());
      TinyModel.bytes(teacher)
          .forEach((name, bytes) -> assertThat(bytes).as(name).isEqualTo(taught.get(name)));
    }
  }

  @ParameterizedTest
  @CsvSource({"0.9, 0,", "0, 1e-3,", "0, 0, CUBIC"})
  void aResumedRecoveryEndsWithTheSameBits(double keep, double decay, MaskSettings.Growth growth) {
    RecoverySettings recovery =
        new RecoverySettings(0.1, 0.9, 5, 2, masks(keep, decay, growth, 4, 0.5));
    List<Map<String, byte[]>> ends = new ArrayList<>();
    Path file = folder.resolve("checkpoint.safetensors");
    for (int stopAt : new int[] {0, 7, 14}) {
      try (BertForQuestionAnswering teacher = TinyModel.random(device, 0)) {
        TrainingState state = TrainingState.START;
        if (stopAt > 0) {
          try (BertForQuestionAnswering model = masked(recovery.masks())) {
            model.prepareTraining();
            Trainer trainer =
                new Trainer(model, TinyModel.rows(10), settings(20), recovery, teacher, state);
            assertThatThrownBy(() ->
                    trainer.run(
                        "train",
                        new StopAfter(stopAt),
                        kept -> Checkpoint.write(file, model, kept)))
                .isInstanceOf(StoppedException.class);
          }
        }
        try (BertForQuestionAnswering model = masked(recovery.masks())) {
          if (stopAt > 0) {
            try (Checkpoint checkpoint = Checkpoint.open(file)) {
              checkpoint.restore(model);
              state = checkpoint.record(TrainingState.class);
            }
            assertThat(state.step()).isEqualTo(stopAt);
          } else {
            model.prepareTraining();
          }
          new Trainer(model, TinyModel.rows(10), settings(20), recovery, teacher, state)
              .run("train", Progress.NONE, kept -> {});
          ends.add(TinyModel.bytes(model));
        }
      }
    }
    for (Map<String, byte[]> end : ends.subList(1, ends.size())) {
      end.forEach((name, bytes) -> assertThat(bytes).as(name).isEqualTo(ends.get(0).get(name)));
    }
  }

  @Test
  void badRecoverySettingsAreNamed() {
    assertThatThrownBy(() -> new RecoverySettings(1, -1, 0, 2, MaskSettings.FIXED))
        .isInstanceOf(HalveException.class)
        .hasMessage("logit weight must be 0 or more, found -1.0");
    assertThatThrownBy(() -> new RecoverySettings(0, 0, 0, 2, MaskSettings.FIXED))
        .isInstanceOf(HalveException.class)
        .hasMessage("one of label, logit and hidden weight must be above 0");
    assertThatThrownBy(() -> masks(1, 0, null, 50, 0.5))
        .isInstanceOf(HalveException.class)
        .hasMessage("masked keep must be 0 or more, below 1, found 1.0");
  }
}
