package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;

/**
 * One training step of a question-answering model: the batch goes up, forward, loss, backward,
 * optimizer. Queued as a whole; the host waits for nothing. A step may be over several batches,
 * whose gradients then add up before the optimizer runs.
 */
public final class TrainingStep implements AutoCloseable {
  private final BertForQuestionAnswering model;
  private final Distillation distillation;
  private final Tensor loss;
  private final List<Parameter> parameters;
  private final Workspace workspace;
  private final Pool pool;
  private final Tensor memory;
  private final Tensor norm;
  private final float share;
  private final Replay accumulation;
  private final Replay replay;

  /**
   * @param model prepared for training, masks in place
   * @param distillation null to learn from labels alone
   * @param maxTokens of a batch
   * @param maxRows of a batch
   */
  public TrainingStep(
      BertForQuestionAnswering model, Distillation distillation, int maxTokens, int maxRows) {
    this(model, distillation, maxTokens, maxRows, 1);
  }

  /**
   * @param batches of a step: all but the last go to {@link #accumulate}
   */
  public TrainingStep(
      BertForQuestionAnswering model,
      Distillation distillation,
      int maxTokens,
      int maxRows,
      int batches) {
    Device device = model.device();
    this.model = model;
    this.distillation = distillation;
    this.parameters = model.parameters();
    this.workspace = new Workspace(device);
    this.pool = device.openPool();
    BatchShape largest = device.shape(new BatchShape(maxTokens, maxRows, maxTokens));
    // Row by row a smaller batch may need more rows than the largest: one for each token at most.
    this.memory = pool.allocate(DType.I32, DeviceBatch.integers(largest) + 3L * largest.tokens());
    this.loss = pool.allocate(DType.F32, 1);
    this.norm = pool.allocate(DType.F32, 1);
    this.share = 1.0f / batches;
    this.accumulation = device.openReplay();
    this.replay = device.openReplay();
  }

  /** To which each step adds its loss, from zero on: F32 {@code [1]} on the device. */
  public Tensor loss() {
    return loss;
  }

  /** Queues forward and backward of a batch that is not the step's last. */
  public void accumulate(PackedBatch batch, int[] starts, int[] ends, StepScalars scalars) {
    BatchShape shape = model.device().shape(BatchShape.of(batch));
    DeviceBatch onDevice = DeviceBatch.upload(model.device(), memory, shape, batch, starts, ends);
    accumulation.run(shape, scalars, () -> queueGradients(onDevice, scalars));
  }

  /**
   * Queues a step's last batch, and the optimizer.
   *
   * @param starts the first token of each row's answer, a position within the row; 0 for none
   * @param ends its last token
   */
  public void run(PackedBatch batch, int[] starts, int[] ends, StepScalars scalars) {
    BatchShape shape = model.device().shape(BatchShape.of(batch));
    DeviceBatch onDevice = DeviceBatch.upload(model.device(), memory, shape, batch, starts, ends);
    replay.run(
        shape,
        scalars,
        () -> {
          queueGradients(onDevice, scalars);
          model.device().adamW(parameters, scalars.optimizer(), scalars.step(), norm);
        });
  }

  private void queueGradients(DeviceBatch batch, StepScalars scalars) {
    workspace.reset();
    Targets targets = null;
    if (distillation != null) {
      targets = targets(Pass.inference(workspace, batch));
    }
    Pass pass = Pass.training(workspace, batch, scalars.seed());
    model.forwardBackward(pass, distillation, targets, share, loss);
  }

  /**
   * What a teacher says of a batch.
   *
   * @param hidden the output of each layer, {@code [tokens, hidden]}; empty where none is asked for
   * @param logits F32 {@code [tokens, 2]}
   */
  record Targets(List<Tensor> hidden, Tensor logits) {}

  private Targets targets(Pass pass) {
    BertForQuestionAnswering teacher = distillation.teacher();
    Tensor logits = workspace.take(DType.F32, pass.tokens(), 2);
    List<Tensor> hidden = new ArrayList<>();
    if (distillation.hiddenWeight() > 0) {
      hidden.addAll(teacher.bert().hiddenStates(pass));
      teacher.qaOutputs().forward(pass, hidden.getLast(), Epilogue.NONE, logits, 0);
    } else {
      Workspace.Mark mark = workspace.mark();
      Tensor last = teacher.bert().forward(pass).lastHidden();
      teacher.qaOutputs().forward(pass, last, Epilogue.NONE, logits, 0);
      workspace.release(mark);
    }
    return new Targets(Collections.unmodifiableList(hidden), logits);
  }

  @Override
  public void close() {
    accumulation.close();
    replay.close();
    workspace.close();
    pool.close();
  }
}
