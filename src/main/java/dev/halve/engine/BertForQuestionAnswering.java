package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparse.SparsityPattern;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

/**
 * An encoder of any family with the extractive question-answering head: a product that gives every
 * token a start and an end logit, {@code [tokens, 2]}. Parameter names are Hugging Face's.
 */
public final class BertForQuestionAnswering implements AutoCloseable {
  private final BertModel bert;
  private final Pool headPool;
  private final Linear qaOutputs;
  private Pool trainingPool;

  /** A model of zeros; {@link PretrainedModel} makes filled ones. */
  BertForQuestionAnswering(Device device, BertConfig config) {
    this.bert = new BertModel(device, config, config.family().prefix() + ".");
    this.headPool = device.openPool();
    this.qaOutputs = new Linear(device, headPool, "qa_outputs", config.hiddenSize(), 2);
  }

  public BertModel bert() {
    return bert;
  }

  public Linear qaOutputs() {
    return qaOutputs;
  }

  public Device device() {
    return bert.device();
  }

  public BertConfig config() {
    return bert.config();
  }

  /** Every parameter, in the order of the forward pass; a compressed weight is none. */
  public List<Parameter> parameters() {
    List<Parameter> parameters = new ArrayList<>();
    bert.eachParameter(parameters::add);
    qaOutputs.eachParameter(parameters::add);
    return parameters;
  }

  /** Eager inference: start and end logits in the workspace, F32 {@code [tokens, 2]}. */
  public Tensor forward(Pass pass) {
    Tensor logits = pass.workspace().take(DType.F32, pass.tokens(), 2);
    Workspace.Mark mark = pass.workspace().mark();
    qaOutputs.forward(pass, bert.forward(pass).lastHidden(), Epilogue.NONE, logits, 0);
    pass.workspace().release(mark);
    return logits;
  }

  /**
   * One forward and backward pass: adds to every gradient, and the mean loss over the batch's rows
   * to {@code loss}.
   *
   * @param pass of a batch with answers
   * @param distillation null, with the targets, for the labels' loss alone
   * @param share of this batch in the step: what the loss and the gradients are multiplied by
   * @param loss F32 {@code [1]}
   */
  void forwardBackward(
      Pass pass,
      Distillation distillation,
      TrainingStep.Targets targets,
      float share,
      Tensor loss) {
    Workspace workspace = pass.workspace();
    Device device = pass.device();
    BertModel.Saved saved = bert.forward(pass);
    Tensor logits = workspace.take(DType.F32, pass.tokens(), 2);
    qaOutputs.forward(pass, saved.lastHidden(), Epilogue.NONE, logits, 0);

    Tensor dLogits = workspace.take(DType.F32, pass.tokens(), 2);
    float labelWeight = distillation == null ? 1 : distillation.labelWeight();
    device.spanLoss(logits, pass.batch(), share * labelWeight, dLogits, loss);
    if (distillation != null) {
      device.distillationLoss(
          logits,
          targets.logits(),
          pass.batch(),
          distillation.temperature(),
          share * distillation.logitWeight(),
          dLogits,
          loss);
    }
    Tensor dHidden = workspace.take(pass.tokens(), config().hiddenSize());
    qaOutputs.backward(pass, saved.lastHidden(), dLogits, 0, dHidden, false);
    if (distillation == null || targets.hidden().isEmpty()) {
      bert.backward(pass, saved, dHidden);
      return;
    }
    List<Tensor> hidden = targets.hidden();
    float weight = share * distillation.hiddenWeight() / hidden.size();
    bert.backward(
        pass,
        saved,
        dHidden,
        (layer, out, dOut) ->
            device.hiddenLoss(out, hidden.get(layer), pass.batch(), weight, dOut, loss));
  }

  /** Gives every parameter a gradient and moments of zeros. */
  public void prepareTraining() {
    endTraining();
    trainingPool = device().openPool();
    Parameter.prepareTraining(trainingPool, parameters());
  }

  /** Frees gradients and moments. */
  public void endTraining() {
    if (trainingPool != null) {
      parameters().forEach(Parameter::endTraining);
      trainingPool.close();
      trainingPool = null;
    }
  }

  /**
   * Compresses every encoder weight that is 2:4, as a whole or in blocks of its rows, and frees its
   * dense form.
   *
   * @return the names of the layers that are left as they are, for their weights are not 2:4
   */
  public List<String> toSparseSemiStructured() {
    List<String> left = new ArrayList<>();
    for (Linear linear : bert.linears()) {
      if (!(linear.weight() instanceof Weight.Trainable)) {
        continue;
      }
      try (Arena arena = Arena.ofConfined()) {
        Tensor weight = linear.weight(arena);
        if (SparsityPattern.of(weight).semiStructured()) {
          linear.setCompressed(SparseSemiStructuredTensor.compress(arena, weight));
        } else if (HybridTensor.fits(weight)) {
          linear.setHybrid(HybridTensor.compress(arena, weight));
        } else {
          left.add(linear.name());
        }
      }
    }
    return left;
  }

  /** Replaces every compressed weight of the encoder by its dense form, which can be trained. */
  public void toDense() {
    bert.linears().forEach(Linear::toDense);
  }

  /** Bytes that the encoder's linear weights take for inference. */
  public long linearWeightBytes() {
    return bert.linears().stream().mapToLong(Linear::weightBytes).sum();
  }

  public CompiledModel compile(int maxTokens, int maxRows) {
    return device().compile(bert, qaOutputs, maxTokens, maxRows);
  }

  @Override
  public void close() {
    endTraining();
    qaOutputs.close();
    headPool.close();
    bert.close();
  }
}
