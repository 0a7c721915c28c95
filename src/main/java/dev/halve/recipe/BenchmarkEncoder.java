package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Device;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.Pass;
import dev.halve.engine.PretrainedModel;
import dev.halve.engine.Workspace;
import java.lang.foreign.Arena;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;

/**
 * One model of a {@link Benchmark} on its device, run eagerly or compiled; each run ends with its
 * outputs on the host. Holds one compiled form, for the batch it ran last.
 */
final class BenchmarkEncoder implements AutoCloseable {
  private static final long SEED = 0;

  private final BertForQuestionAnswering model;
  private final boolean head;
  private final boolean owner;
  private final Workspace workspace;
  private final Map<PackedBatch, Tensor> outputs = new IdentityHashMap<>();
  private final Arena arena = Arena.ofShared();
  private CompiledModel compiled;
  private PackedBatch compiledFor;

  private BenchmarkEncoder(BertForQuestionAnswering model, boolean head, boolean owner) {
    this.model = model;
    this.head = head;
    this.owner = owner;
    this.workspace = new Workspace(model.device());
  }

  /** A model of random weights. */
  static BenchmarkEncoder random(Device device, BertConfig config, boolean head) {
    return new BenchmarkEncoder(PretrainedModel.random(device, config, SEED), head, true);
  }

  /**
   * A stored model, dense whatever it was.
   *
   * @param head whether a run computes logits, {@code [tokens, 2]}, or ends with the last hidden
   *     states, {@code [tokens, hidden]}
   */
  static BenchmarkEncoder load(
      Device device, PretrainedModel pretrained, boolean head, Progress progress) {
    BertForQuestionAnswering stored =
        pretrained.questionAnswering(device, SEED, head ? progress::note : _ -> {});
    stored.toDense();
    return new BenchmarkEncoder(stored, head, true);
  }

  /** A model with its head that somebody else owns, as it is. */
  static BenchmarkEncoder of(BertForQuestionAnswering model) {
    return new BenchmarkEncoder(model, true, false);
  }

  /**
   * Makes every encoder weight that can be so 2:4 by magnitude, but for a share of its rows; it
   * stays dense, with zeros.
   */
  void prune(double denseRows) {
    PruningPlan plan = PruningPlan.magnitude(PruningSettings.SEMI_STRUCTURED);
    Pruning.prune(model.bert(), plan.keepingRowsDense(denseRows), List.of(), Progress.NONE);
  }

  void compress() {
    model.toSparseSemiStructured();
  }

  /** Bytes of the encoder's linear weights in the device's memory. */
  long weightBytes() {
    return model.linearWeightBytes();
  }

  /** An operation at a time; the outputs are valid until the next run. */
  Tensor eager(PackedBatch batch) {
    workspace.reset();
    Pass pass = Pass.inference(workspace, batch);
    Tensor device = head ? model.forward(pass) : model.bert().forward(pass).lastHidden();
    Tensor host =
        outputs.computeIfAbsent(
            batch, _ -> Tensor.allocate(arena, DType.F32, device.shape().extents()));
    model.device().download(device, host);
    return host;
  }

  /** All at once; the outputs are valid until the next run. The first run of a batch compiles. */
  Tensor compiled(PackedBatch batch) {
    if (compiledFor != batch) {
      closeCompiled();
      compiled =
          model
              .device()
              .compile(model.bert(), head ? model.qaOutputs() : null, batch.tokens(), batch.rows());
      compiledFor = batch;
    }
    return compiled.run(batch);
  }

  private void closeCompiled() {
    if (compiled != null) {
      compiled.close();
      compiled = null;
      compiledFor = null;
    }
  }

  @Override
  public void close() {
    closeCompiled();
    workspace.close();
    if (owner) {
      model.close();
    }
    arena.close();
  }
}
