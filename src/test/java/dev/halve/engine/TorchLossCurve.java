package dev.halve.engine;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import tools.jackson.databind.json.JsonMapper;

/**
 * Trains a small model and writes down what {@code benchmarks/torch_curve.py} needs to train the
 * same one: the initial weights, every step's rows and learning rate, and the losses found here.
 *
 * <p>{@code java dev.halve.engine.TorchLossCurve DEVICE FOLDER STEPS}
 */
final class TorchLossCurve {
  private static final BertConfig CONFIG =
      new BertConfig(1000, 384, 4, 12, 1536, 256, 2, 1e-12f, 0, 0);
  private static final int ROWS = 32;
  private static final double LEARNING_RATE = 3e-4;
  private static final int WARMUP_STEPS = 20;

  private TorchLossCurve() {}

  /** One step as the harness reads it. */
  record Step(
      double learningRate,
      List<int[]> ids,
      List<int[]> types,
      int[] starts,
      int[] ends,
      double loss) {}

  /** Whose rows, of 20 to 200 tokens, have a marker before and one after the answer. */
  private static Step rows(Random random, double learningRate) {
    List<int[]> ids = new ArrayList<>();
    List<int[]> types = new ArrayList<>();
    int[] starts = new int[ROWS];
    int[] ends = new int[ROWS];
    for (int row = 0; row < ROWS; row++) {
      int length = 20 + random.nextInt(181);
      int[] rowIds = random.ints(length, 10, CONFIG.vocabSize()).toArray();
      int[] rowTypes = new int[length];
      java.util.Arrays.fill(rowTypes, 8, length, 1);
      rowIds[0] = 1;
      starts[row] = 9 + random.nextInt(length - 14);
      ends[row] = starts[row] + random.nextInt(3);
      rowIds[starts[row] - 1] = 2;
      rowIds[ends[row] + 1] = 3;
      ids.add(rowIds);
      types.add(rowTypes);
    }
    return new Step(learningRate, ids, types, starts, ends, 0);
  }

  public static void main(String[] args) throws IOException {
    Path folder = Files.createDirectories(Path.of(args[1]));
    int count = Integer.parseInt(args[2]);
    List<Step> steps = new ArrayList<>();
    try (Device device = Devices.openForTraining(args[0]);
        BertForQuestionAnswering model = PretrainedModel.random(device, CONFIG, 5)) {
      ModelWriter.write(model, 0, null, folder.resolve("model.safetensors"));
      model.prepareTraining();
      Random random = new Random(6);
      try (TrainingStep training = new TrainingStep(model, null, ROWS * 200, ROWS)) {
        for (int i = 1; i <= count; i++) {
          double warmup = Math.min(1, (double) i / WARMUP_STEPS);
          Step step = rows(random, LEARNING_RATE * warmup);
          PackedBatch batch =
              PackedBatch.of(step.ids.toArray(int[][]::new), step.types.toArray(int[][]::new));
          device.zero(training.loss());
          AdamW optimizer = AdamW.withLearningRate(step.learningRate);
          training.run(batch, step.starts, step.ends, new StepScalars(i, optimizer, i));
          steps.add(
              new Step(
                  step.learningRate,
                  step.ids,
                  step.types,
                  step.starts,
                  step.ends,
                  HostCopy.floats(device, training.loss())[0]));
        }
      }
    }
    Files.writeString(folder.resolve("steps.json"), JsonMapper.shared().writeValueAsString(steps));
  }
}
