package dev.halve.recipe;

import dev.halve.core.Tensor;
import dev.halve.engine.AdamW;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.PretrainedModel;
import dev.halve.engine.StepScalars;
import dev.halve.engine.TrainingStep;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * Training steps of a question-answering model: forward, loss, backward, clipping and AdamW over
 * all parameters, with the model's dropout, on one batch again and again. The loss is fetched after
 * every step, so that a step's time is its own.
 */
public final class TrainingBenchmark {
  private static final double LEARNING_RATE = 5e-5;

  private TrainingBenchmark() {}

  /**
   * One batch size.
   *
   * @param batch rows
   * @param tokens of the batch
   * @param steps timed
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Row(
      int batch,
      int tokens,
      int steps,
      double msP50,
      double msP10,
      double msP90,
      double rowsPerS,
      double tokensPerS) {}

  /**
   * What came out.
   *
   * @param dtype of the products
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Result(String model, String device, String dtype, int processors, List<Row> rows) {}

  /**
   * @param settings whose modes, weights and peer are not looked at
   * @throws StoppedException if the listener asked for it
   */
  public static Result run(BenchmarkSettings settings, Progress progress) {
    try (PretrainedModel pretrained =
            Benchmark.shape(settings.model()) == null
                ? StoredModel.open(settings.model(), progress)
                : null;
        Device device = Devices.openForTraining(settings.device());
        BertForQuestionAnswering model = model(settings, pretrained, device)) {
      List<PackedBatch> batches =
          Latency.batches(model.config(), settings.latency(), settings.lengths());
      Stage stage = Stage.begin(progress, "training steps", batches.size(), "batch sizes");
      List<Row> rows = new ArrayList<>();
      for (PackedBatch batch : batches) {
        rows.add(row(batch, times(model, batch, settings.latency(), stage)));
        stage.advance(rows.size(), "");
      }
      stage.end();
      return new Result(
          settings.model(),
          device.name(),
          device.computeType().name(),
          Runtime.getRuntime().availableProcessors(),
          rows);
    }
  }

  private static BertForQuestionAnswering model(
      BenchmarkSettings settings, PretrainedModel pretrained, Device device) {
    BertConfig config =
        pretrained == null ? Benchmark.shape(settings.model()) : pretrained.config();
    if (pretrained == null || settings.randomWeights()) {
      return PretrainedModel.random(device, config, 0);
    }
    BertForQuestionAnswering model = pretrained.questionAnswering(device, 0, _ -> {});
    model.toDense();
    return model;
  }

  /** Milliseconds of each step. */
  private static double[] times(
      BertForQuestionAnswering model, PackedBatch batch, LatencySettings settings, Stage stage) {
    int[] starts = new int[batch.rows()];
    int[] ends = new int[batch.rows()];
    for (int row = 0; row < batch.rows(); row++) {
      starts[row] = batch.rowLength(row) / 3;
      ends[row] = batch.rowLength(row) / 2;
    }
    model.prepareTraining();
    try (TrainingStep step = new TrainingStep(model, null, batch.tokens(), batch.rows())) {
      double[] times = new double[settings.repeats()];
      int number = 0;
      // A device may run the first step as it is, record the second, and only then replay.
      for (int warmup = Math.max(3, settings.warmup()); number < warmup; number++) {
        stage.checkStop("its times are not kept");
        take(model, step, batch, starts, ends, number + 1);
      }
      long began = System.nanoTime();
      int done = 0;
      while (done < times.length
          && (done < 3 || System.nanoTime() - began < settings.maxSeconds() * 1e9)) {
        stage.checkStop("its times are not kept");
        long start = System.nanoTime();
        take(model, step, batch, starts, ends, number + done + 1);
        times[done] = (System.nanoTime() - start) / 1e6;
        done++;
      }
      return Arrays.copyOf(times, done);
    } finally {
      model.endTraining();
    }
  }

  private static void take(
      BertForQuestionAnswering model,
      TrainingStep step,
      PackedBatch batch,
      int[] starts,
      int[] ends,
      int number) {
    step.run(
        batch,
        starts,
        ends,
        new StepScalars(number, AdamW.withLearningRate(LEARNING_RATE), number));
    try (Arena arena = Arena.ofConfined()) {
      model.device().download(step.loss(), Tensor.allocate(arena, step.loss().dtype(), 1));
    }
  }

  private static Row row(PackedBatch batch, double[] times) {
    Arrays.sort(times);
    double median = Latency.percentile(times, 0.5);
    return new Row(
        batch.rows(),
        batch.tokens(),
        times.length,
        median,
        Latency.percentile(times, 0.1),
        Latency.percentile(times, 0.9),
        batch.rows() / median * 1e3,
        batch.tokens() / median * 1e3);
  }
}
