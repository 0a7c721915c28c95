package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.function.IntToDoubleFunction;
import java.util.stream.Stream;

/**
 * Brings a pruned encoder's blocks back to what the dense one's give, one after another and without
 * labels (arXiv 2510.14444): attention and MLP of each layer are trained alone, under their masks,
 * to lower the squared error of their output. A block's input is what the pruned model feeds it,
 * with the blocks before it as they have become; its target is the output of the dense model's
 * block on the dense model's own input, so that it makes up for errors before it as well.
 *
 * <p>Holds two hidden states {@code [tokens, hidden]} of every batch, whatever the depth.
 */
public final class BlockReconstruction implements AutoCloseable {
  private final List<? extends EncoderBlock<?>> dense;
  private final List<? extends EncoderBlock<?>> pruned;
  private final Device device;
  private final int hidden;
  private final List<PackedBatch> batches;
  private final Workspace workspace;
  private final Pool pool;
  private final Tensor[] inputs;
  private final Tensor[] targets;
  private final Tensor loss;
  private final Tensor norm;
  private int done;

  /**
   * How far a block's output was from the dense model's: {@code ‖out - target‖² / ‖target‖²}, the
   * mean over batches.
   */
  public record Fit(double before, double after) {}

  /**
   * Embeds the batches.
   *
   * @param dense only read
   * @param pruned on the same device and of the same shape, with masks on its pruned weights, not
   *     prepared for training
   * @throws dev.halve.core.HalveException if a batch does not fit the model
   */
  public BlockReconstruction(BertModel dense, BertModel pruned, List<PackedBatch> batches) {
    batches.forEach(batch -> batch.check(pruned.config()));
    this.dense = blocks(dense);
    this.pruned = blocks(pruned);
    this.device = pruned.device();
    this.hidden = pruned.config().hiddenSize();
    this.batches = List.copyOf(batches);
    this.workspace = new Workspace(device);
    this.pool = device.openPool();
    this.inputs = embed(pruned);
    this.targets = embed(dense);
    this.loss = pool.allocate(DType.F32, 1);
    this.norm = pool.allocate(DType.F32, 1);
  }

  private static List<? extends EncoderBlock<?>> blocks(BertModel model) {
    return model.layers().stream()
        .flatMap(layer -> Stream.of(layer.attention(), layer.feedForward()))
        .toList();
  }

  private Tensor[] embed(BertModel model) {
    Tensor[] states = new Tensor[batches.size()];
    for (int i = 0; i < states.length; i++) {
      states[i] = pool.allocate(device.computeType(), batches.get(i).tokens(), hidden);
      model.embeddings().forward(inference(i), states[i]);
      workspace.reset();
    }
    return states;
  }

  private Pass inference(int batch) {
    return Pass.inference(workspace, batches.get(batch));
  }

  /** How many blocks there are in all. */
  public int blocks() {
    return pruned.size();
  }

  /**
   * Trains the next block, and goes on behind it.
   *
   * @param steps each over one batch, all in turn
   * @param learningRate AdamW's at a step, counted from 0
   */
  public Fit next(int steps, IntToDoubleFunction learningRate) {
    EncoderBlock<?> block = pruned.get(done);
    advance(dense.get(done), targets);
    done++;
    double before = error(block);
    List<Parameter> parameters = new ArrayList<>();
    block.eachParameter(parameters::add);
    try (Pool trainingPool = device.openPool()) {
      Parameter.prepareTraining(trainingPool, parameters);
      for (int step = 0; step < steps; step++) {
        AdamW optimizer =
            new AdamW(
                learningRate.applyAsDouble(step), 0.9, 0.999, 1e-8, 0, Double.POSITIVE_INFINITY);
        addGradients(block, step % batches.size());
        device.adamW(parameters, optimizer, step + 1, norm);
        workspace.reset();
      }
    } finally {
      parameters.forEach(Parameter::endTraining);
    }
    double after = error(block);
    advance(block, inputs);
    return new Fit(before, after);
  }

  private <S> void addGradients(EncoderBlock<S> block, int index) {
    Pass pass = Pass.trainingWithoutDropout(workspace, batches.get(index));
    Tensor out = state(pass);
    Tensor dOut = state(pass);
    S saved = block.forward(pass, inputs[index], out);
    device.zero(dOut);
    device.hiddenLoss(out, targets[index], pass.batch(), 1, dOut, loss);
    block.backward(pass, saved, dOut, state(pass));
  }

  private Tensor state(Pass pass) {
    return workspace.take(pass.tokens(), hidden);
  }

  private double error(EncoderBlock<?> block) {
    device.zero(loss);
    for (int i = 0; i < inputs.length; i++) {
      Pass pass = inference(i);
      Tensor out = state(pass);
      block.forward(pass, inputs[i], out);
      device.hiddenLoss(out, targets[i], pass.batch(), 1, state(pass), loss);
      workspace.reset();
    }
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.F32, 1);
      device.download(loss, host);
      return host.getFloat(0) / inputs.length;
    }
  }

  /** Puts a block's output in the place of its input. */
  private void advance(EncoderBlock<?> block, Tensor[] states) {
    for (int i = 0; i < states.length; i++) {
      Pass pass = inference(i);
      Tensor out = state(pass);
      block.forward(pass, states[i], out);
      device.zero(states[i]);
      device.add(out, states[i]);
      workspace.reset();
    }
  }

  @Override
  public void close() {
    workspace.close();
    pool.close();
  }
}
