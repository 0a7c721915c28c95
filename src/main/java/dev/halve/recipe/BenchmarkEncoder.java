package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Device;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.Parameter;
import dev.halve.engine.Pass;
import dev.halve.engine.PretrainedModel;
import dev.halve.engine.Weight;
import dev.halve.engine.Workspace;
import java.lang.foreign.Arena;
import java.util.HashMap;
import java.util.IdentityHashMap;
import java.util.Map;

/**
 * One model of a {@link Benchmark} on its device, run eagerly or compiled; each run ends with its
 * outputs on the host. Holds one compiled form, for the batch it ran last.
 */
final class BenchmarkEncoder implements AutoCloseable {
  private static final long SEED = 0;

  private final BertForQuestionAnswering model;
  private final boolean head;
  private final Workspace workspace;
  private final Map<PackedBatch, Tensor> outputs = new IdentityHashMap<>();
  private final Arena arena = Arena.ofShared();
  private CompiledModel compiled;
  private PackedBatch compiledFor;

  private BenchmarkEncoder(BertForQuestionAnswering model, boolean head) {
    this.model = model;
    this.head = head;
    this.workspace = new Workspace(model.device());
  }

  /** A model of random weights. */
  static BenchmarkEncoder random(Device device, BertConfig config, boolean head) {
    return new BenchmarkEncoder(PretrainedModel.random(device, config, SEED), head);
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
    boolean anyCompressed =
        stored.bert().linears().stream()
            .anyMatch(linear -> linear.weight() instanceof Weight.Compressed);
    if (!anyCompressed) {
      return new BenchmarkEncoder(stored, head);
    }
    try (stored) {
      return new BenchmarkEncoder(denseCopy(stored), head);
    }
  }

  private static BertForQuestionAnswering denseCopy(BertForQuestionAnswering from) {
    BertForQuestionAnswering to = PretrainedModel.random(from.device(), from.config(), SEED);
    Map<String, Parameter> parameters = new HashMap<>();
    to.parameters().forEach(parameter -> parameters.put(parameter.name(), parameter));
    Map<String, Linear> linears = new HashMap<>();
    to.bert().linears().forEach(linear -> linears.put(linear.name(), linear));
    try (Arena scratch = Arena.ofConfined()) {
      for (Linear linear : from.bert().linears()) {
        linears.get(linear.name()).setWeight(linear.weight(scratch));
      }
      for (Parameter parameter : from.parameters()) {
        Tensor host = Tensor.allocate(scratch, DType.F32, parameter.value().shape().extents());
        from.device().download(parameter.value(), host);
        Parameter copy = parameters.get(parameter.name());
        to.device().upload(host, copy.value());
        to.device().round(copy);
      }
    }
    return to;
  }

  /** Makes every encoder weight that can be so 2:4 by magnitude; it stays dense, with zeros. */
  void prune() {
    WeightNormSparsifier sparsifier =
        new WeightNormSparsifier(WeightNormSparsifier.Config.SEMI_STRUCTURED);
    sparsifier.prepare(model.bert().linears());
    sparsifier.step();
    sparsifier.squashMask();
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
    model.close();
    arena.close();
  }
}
