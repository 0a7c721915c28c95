package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Locale;
import java.util.SplittableRandom;

/**
 * Times training steps on the first GPU, with random weights and the shapes of PyTorch's harness;
 * one JSON object a line. Arguments: {@code MODEL BATCH STEPS [LENGTHS_FILE]}, MODEL is {@code
 * base} or {@code small}; rows are 384 tokens where there is no file of lengths.
 */
final class GpuTrainingTiming {
  private GpuTrainingTiming() {}

  public static void main(String[] arguments) throws IOException {
    BertConfig config =
        switch (arguments[0]) {
          case "base" -> new BertConfig(28996, 768, 12, 12, 3072, 512, 2, 1e-12f, 0.1f, 0.1f);
          case "small" -> new BertConfig(30522, 384, 12, 12, 1536, 512, 2, 1e-12f, 0.1f, 0.1f);
          default -> throw new IllegalArgumentException(arguments[0]);
        };
    int rows = Integer.parseInt(arguments[1]);
    int steps = Integer.parseInt(arguments[2]);
    int[] lengths = new int[rows];
    Arrays.fill(lengths, 384);
    if (arguments.length > 3) {
      int[] all =
          Files.readAllLines(Path.of(arguments[3])).stream()
              .mapToInt(line -> Integer.parseInt(line.strip()))
              .toArray();
      for (int row = 0; row < rows; row++) {
        lengths[row] = Math.min(384, all[row % all.length]);
      }
    }
    try (Device device = Devices.openForTraining("cuda:0");
        BertForQuestionAnswering model = new BertForQuestionAnswering(device, config);
        Pool pool = device.openPool()) {
      fill(model);
      model.prepareTraining();
      Tensor loss = BertForQuestionAnswering.newLoss(pool);
      PackedBatch batch = new Random24(1).batch(config, lengths);
      int[] starts = new int[rows];
      int[] ends = new int[rows];
      Arrays.fill(starts, 4);
      Arrays.fill(ends, 7);
      int warmup = 10;
      try (TrainingStep step = new TrainingStep(model, null, loss, batch.tokens(), rows)) {
        double[] millis = new double[Math.max(0, steps - warmup)];
        for (int i = 1; i <= steps; i++) {
          StepScalars scalars = new StepScalars(i, AdamW.withLearningRate(5e-5), i);
          long start = System.nanoTime();
          step.run(batch, starts, ends, scalars);
          read(device, loss);
          if (i > warmup) {
            millis[i - warmup - 1] = (System.nanoTime() - start) / 1e6;
          }
        }
        int burst = Math.min(steps, 50);
        long start = System.nanoTime();
        for (int i = 1; i <= burst; i++) {
          step.run(
              batch, starts, ends, new StepScalars(i, AdamW.withLearningRate(5e-5), steps + i));
        }
        float last = read(device, loss);
        double each = (System.nanoTime() - start) / 1e6 / burst;
        Arrays.sort(millis);
        double median = millis.length == 0 ? Double.NaN : millis[millis.length / 2];
        System.out.printf(
            Locale.ROOT,
            "{\"engine\": \"halve\", \"variant\": \"train\", \"model\": \"%s\", \"batch\": %d,"
                + " \"tokens\": %d, \"ms_step_p50\": %.3f, \"ms_step_p10\": %.3f,"
                + " \"ms_step_p90\": %.3f, \"ms_step_queued\": %.3f, \"rows_per_s\": %.1f,"
                + " \"loss\": %.3f}%n",
            arguments[0],
            rows,
            batch.tokens(),
            median,
            millis.length == 0 ? Double.NaN : millis[millis.length / 10],
            millis.length == 0 ? Double.NaN : millis[millis.length * 9 / 10],
            each,
            rows / each * 1e3,
            last);
      }
    }
  }

  private static float read(Device device, Tensor loss) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.F32, 1);
      device.download(loss, host);
      return host.getFloat(0);
    }
  }

  private static void fill(BertForQuestionAnswering model) {
    Device device = model.device();
    SplittableRandom random = new SplittableRandom(0);
    for (Parameter parameter : model.parameters()) {
      boolean scale = parameter.name().endsWith("LayerNorm.weight");
      try (Arena arena = Arena.ofConfined()) {
        Tensor host = Tensor.allocate(arena, DType.F32, parameter.value().shape().extents());
        for (long i = 0; i < host.elements(); i++) {
          host.setFloat(i, (scale ? 1 : 0) + 0.07f * (random.nextFloat() - 0.5f));
        }
        device.upload(host, parameter.value());
      }
      device.round(parameter);
    }
  }
}
