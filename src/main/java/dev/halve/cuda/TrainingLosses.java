package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.extent;
import static dev.halve.cuda.CudaTraining.requireEights;

import dev.halve.core.Tensor;
import dev.halve.cuda.KernelLaunch.Kernel;
import dev.halve.engine.DeviceBatch;
import java.util.Map;

/** Losses with their gradients, as {@code span_loss.cu} computes them. */
final class TrainingLosses {
  private final CudaTraining training;
  private final Kernels kernels;
  private final KernelLaunch launch;

  TrainingLosses(CudaTraining training, Kernels kernels, KernelLaunch launch) {
    this.training = training;
    this.kernels = kernels;
    this.launch = launch;
  }

  void spanLoss(Tensor logits, DeviceBatch batch, float weight, Tensor dLogits, Tensor loss) {
    training.requireTraining();
    long rowLosses = training.scratch(8L * batch.rows());
    launch
        .of(lossKernel("span_loss", 8, 64), batch.rows())
        .with(dLogits)
        .with(rowLosses)
        .with(logits)
        .with(batch.rowOffsets())
        .with(batch.starts())
        .with(batch.ends())
        .with(batch.rows())
        .with(weight)
        .launch();
    addLosses(loss, rowLosses, batch.rows());
  }

  void distillationLoss(
      Tensor logits,
      Tensor teacher,
      DeviceBatch batch,
      float temperature,
      float weight,
      Tensor dLogits,
      Tensor loss) {
    training.requireTraining();
    long rowLosses = training.scratch(8L * batch.rows());
    launch
        .of(lossKernel("distillation_loss", 8, 64), batch.rows())
        .with(dLogits)
        .with(rowLosses)
        .with(logits)
        .with(teacher)
        .with(batch.rowOffsets())
        .with(batch.tokenCount())
        .with(batch.rows())
        .with(temperature)
        .with(weight)
        .launch();
    addLosses(loss, rowLosses, batch.rows());
  }

  private void addLosses(Tensor loss, long rowLosses, int rows) {
    launch
        .of(lossKernel("add_losses", 8, 32), 1)
        .with(loss)
        .with(rowLosses)
        .with(2 * rows)
        .launch();
  }

  void hiddenLoss(
      Tensor student,
      Tensor teacher,
      DeviceBatch batch,
      float weight,
      Tensor dStudent,
      Tensor loss) {
    training.requireTraining();
    int hidden = extent(student, 1);
    requireEights(hidden);
    Kernel squares = lossKernel("hidden_squares", hidden, 256);
    long blocks = TrainingOperations.elementBlocks(squares, student);
    long partial = training.scratch(8L * blocks);
    launch
        .of(squares, blocks)
        .with(partial)
        .with(student)
        .with(teacher)
        .with(batch.tokenCount())
        .launch();
    launch
        .of(lossKernel("hidden_loss", hidden, 256), blocks)
        .with(loss)
        .with(dStudent)
        .with(partial)
        .with(student)
        .with(teacher)
        .with(batch.tokenCount())
        .with(weight)
        .launch();
  }

  private Kernel lossKernel(String entry, int hidden, int threads) {
    return kernels.get("span_loss.cu", entry, Map.of("HIDDEN", String.valueOf(hidden)), threads);
  }
}
