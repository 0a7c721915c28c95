package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.PretrainedModel;
import dev.halve.engine.TrainingGpu;
import dev.halve.report.LossCurve;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The trainer on a GPU, where there is one, beside the CPU. */
class GpuTrainerTest {
  private static final BertConfig CONFIG =
      new BertConfig(64, 64, 2, 2, 128, 24, 2, 1e-12f, 0.1f, 0.1f);

  @TempDir Path folder;

  private static Device gpu;
  private static Device cpu;

  @BeforeAll
  static void open() {
    gpu = TrainingGpu.open();
    cpu = Devices.open("cpu");
  }

  @AfterAll
  static void close() {
    if (gpu != null) {
      gpu.close();
      cpu.close();
    }
  }

  private static TrainingSettings settings(int steps, int accumulated, long seed) {
    return new TrainingSettings(
        1e-3,
        TrainingSettings.Schedule.LINEAR,
        5,
        8,
        1,
        steps,
        1.0,
        0,
        seed,
        10,
        3600,
        accumulated,
        0);
  }

  private static BertForQuestionAnswering pruned(Device device) {
    BertForQuestionAnswering model = PretrainedModel.random(device, CONFIG, 7);
    WeightNormSparsifier sparsifier =
        new WeightNormSparsifier(WeightNormSparsifier.Config.SEMI_STRUCTURED);
    sparsifier.prepare(model.bert().linears());
    sparsifier.step();
    model.prepareTraining();
    return model;
  }

  private static double[] curve(Device device, int accumulated, long seed) {
    try (BertForQuestionAnswering model = pruned(device)) {
      Trainer trainer =
          new Trainer(
              model, TinyModel.rows(64), settings(200, accumulated, seed), TrainingState.START);
      trainer.run("train", Progress.NONE, state -> {});
      return trainer.state().loss().stream().mapToDouble(LossCurve.Point::loss).toArray();
    }
  }

  private static double distance(double[] one, double[] other) {
    double sum = 0;
    for (int i = 0; i < one.length; i++) {
      sum += Math.abs(one[i] - other[i]);
    }
    return sum / one.length;
  }

  @Test
  void twoHundredStepsLoseAsOnTheCpuWithinWhatAnotherSeedChanges() {
    double[] onGpu = curve(gpu, 1, 1);
    double[] onCpu = curve(cpu, 1, 1);
    double noise = distance(onCpu, curve(cpu, 1, 2));
    assertThat(onGpu).hasSize(20);
    assertThat(onCpu[19]).isLessThan(0.8 * onCpu[0]);
    assertThat(distance(onGpu, onCpu)).isLessThan(noise);
  }

  @Test
  void accumulatedStepsLoseAsOnTheCpu() {
    double[] onGpu = curve(gpu, 2, 1);
    double[] onCpu = curve(cpu, 2, 1);
    double noise = distance(onCpu, curve(cpu, 2, 2));
    assertThat(distance(onGpu, onCpu)).isLessThan(noise);
  }

  @Test
  void aResumedTrainingEndsWithTheSameBits() {
    List<TrainingRow> rows = TinyModel.rows(30);
    TrainingSettings settings = settings(25, 2, 3);
    Map<String, byte[]> straight;
    try (BertForQuestionAnswering model = pruned(gpu)) {
      new Trainer(model, rows, settings, TrainingState.START)
          .run("train", Progress.NONE, state -> {});
      straight = TinyModel.bytes(model);
    }
    Path file = folder.resolve("checkpoint.safetensors");
    try (BertForQuestionAnswering model = pruned(gpu)) {
      Trainer trainer = new Trainer(model, rows, settings, TrainingState.START);
      assertThatThrownBy(() ->
              trainer.run(
                  "train", new StopAfter(11), state -> Checkpoint.write(file, model, state)))
          .isInstanceOf(StoppedException.class);
    }
    try (BertForQuestionAnswering model = PretrainedModel.random(gpu, CONFIG, 99);
        Checkpoint checkpoint = Checkpoint.open(file)) {
      checkpoint.restore(model);
      TrainingState state = checkpoint.record(TrainingState.class);
      assertThat(state.step()).isEqualTo(11);
      new Trainer(model, rows, settings, state).run("train", Progress.NONE, kept -> {});
      TinyModel.bytes(model)
          .forEach((name, bytes) -> assertThat(bytes).as(name).isEqualTo(straight.get(name)));
    }
  }
}
