package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.util.List;

/**
 * A processor that carries out the engine's operations on tensors in its own memory.
 *
 * <p>Activations are {@code [tokens, features]} of {@link #computeType}, packed without padding.
 * Operations are coarse, queue in order, and may return before they are done; {@link #download}
 * waits. Outputs are overwritten unless a doc says that they are added to. Arguments are trusted:
 * the layers and {@link PackedBatch#check} check them once. Not for use by several threads at a
 * time.
 *
 * @see Dropout for the random numbers that every device shares
 */
public interface Device extends AutoCloseable {
  /** {@code cpu}, {@code cuda:0}. */
  String name();

  /** The type of activations and of the weights that products read. */
  DType computeType();

  /** Opens an owner of this device's memory. */
  Pool openPool();

  /**
   * The shape under which this device runs a batch: its own, or a larger one that more batches
   * share.
   */
  default BatchShape shape(BatchShape batch) {
    return batch;
  }

  /** Work to be repeated; where a device records nothing, it runs each time. */
  default Replay openReplay() {
    return (shape, scalars, work) -> work.run();
  }

  /** Copies host to device, rounding where the floating types differ. */
  void upload(Tensor host, Tensor device);

  /**
   * Waits for the operations before it, then copies device to host, converting where the floating
   * types differ.
   */
  void download(Tensor device, Tensor host);

  void zero(Tensor tensor);

  /**
   * Brings a parameter's {@code compute} copy in step with its {@code value}, less what its mask
   * prunes if it is trained straight through.
   */
  void round(Parameter parameter);

  /** Lays a compressed weight out for this device's kernels; the pool owns the memory. */
  PackedWeight pack(Pool pool, SparseSemiStructuredTensor weight);

  /**
   * {@code out[t] = word[tokenIds[t]] + position[positions[t]] + type[typeIds[t]]}.
   *
   * @param word {@code [vocabulary, hidden]}
   * @param out {@code [tokens, hidden]}
   */
  void embed(DeviceBatch batch, Tensor word, Tensor position, Tensor type, Tensor out);

  /**
   * Adds the tables' gradients for {@code dOut [tokens, hidden]} to {@code dWord}, {@code
   * dPosition}, {@code dType}; under the terms of {@link #linearBackward}, {@code dOut} has to stay
   * as it is.
   */
  void embedBackward(DeviceBatch batch, Tensor dOut, Tensor dWord, Tensor dPosition, Tensor dType);

  /**
   * {@code out = (s - mean) / sqrt(variance + epsilon) * gamma + beta} over each token of {@code s
   * = dropout(x) + residual}.
   *
   * @param dropout of x, with the token as row and the feature as column; with one, {@code sum} is
   *     there
   * @param residual {@code [tokens, hidden]}, or null for none
   * @param sum where {@code s} is kept for the backward pass, {@code [tokens, hidden]}, may be
   *     {@code x}; null to keep nothing
   * @param statistics F32 {@code [tokens, 2]} for mean and reciprocal deviation; null to keep
   *     nothing
   */
  void layerNorm(
      Tensor x,
      Dropout dropout,
      Tensor residual,
      Tensor gamma,
      Tensor beta,
      float epsilon,
      Tensor sum,
      Tensor statistics,
      Tensor out);

  /**
   * Writes {@code dSum}, the gradient of the residual, and {@code dX}; adds to {@code dGamma} and
   * {@code dBeta} (F32 {@code [hidden]}). {@code dSum} or {@code dX} may be {@code dOut}.
   *
   * @param dX {@code dropout(dSum)}, the gradient of {@code x}; null without dropout, when {@code
   *     dSum} is that
   * @param dBias F32 {@code [hidden]}: the sum over tokens of the gradient of {@code x} is added to
   *     it, as to the bias of the product that made {@code x}; may be null
   */
  void layerNormBackward(
      Tensor sum,
      Tensor statistics,
      Tensor gamma,
      Tensor dOut,
      Tensor dSum,
      Dropout dropout,
      Tensor dX,
      Tensor dGamma,
      Tensor dBeta,
      Tensor dBias);

  /**
   * {@code y[:, column : column + out] = epilogue(x · weightᵀ + bias)}.
   *
   * @param x {@code [tokens, in]}
   * @param bias {@code [out]}
   * @param y {@code [tokens, width]} with {@code column + out <= width}; F32 for a head of two
   *     outputs
   */
  void linear(Tensor x, Weight weight, Tensor bias, Epilogue epilogue, Tensor y, int column);

  /**
   * The gradients of {@link #linear} without epilogue: adds to {@code dWeight} (F32 {@code [out,
   * in]}) and {@code dBias} (F32 {@code [out]}); writes {@code dX [tokens, in]}, or adds to it.
   * {@code dWeight} may be made later than what is queued next: until the next call of this, of
   * {@link #linearsBackward}, {@link #embedBackward}, {@link #adamW} or a copy, {@code x} and
   * {@code dY} have to stay as they are.
   *
   * @param dY {@code [tokens, width]}, read in columns {@code [column, column + out)}
   * @param dBias null where it has been added to already
   * @param dX null where the input needs no gradient
   * @param addToInput whether {@code dX} is added to
   */
  void linearBackward(
      Tensor x,
      Weight weight,
      Tensor dY,
      int column,
      Tensor dWeight,
      Tensor dBias,
      Tensor dX,
      boolean addToInput);

  /**
   * {@code products += xᵀ · x} on and above the diagonal; what lies below it is undefined.
   *
   * @param x {@code [tokens, in]}
   * @param products F32 {@code [in, in]}
   */
  void addGram(Tensor x, Tensor products);

  /**
   * Products of one input, {@code y = [x · weight0ᵀ + bias0, x · weight1ᵀ + bias1, ...]}. A device
   * may take layers that lie side by side in memory as one.
   */
  default void linears(Tensor x, List<Linear> linears, Tensor y) {
    int column = 0;
    for (Linear each : linears) {
      linear(x, each.weight(), each.bias().compute(), Epilogue.NONE, y, column);
      column += each.out();
    }
  }

  /**
   * The gradients of {@link #linears} without the biases', which are added up where {@code dY} is
   * made; adds to {@code dX}.
   */
  default void linearsBackward(Tensor x, List<Linear> linears, Tensor dY, Tensor dX) {
    int column = 0;
    for (Linear each : linears) {
      Tensor dWeight = each.weightGradient();
      linearBackward(x, each.weight(), dY, column, dWeight, null, dX, true);
      column += each.out();
    }
  }

  /** {@code y = gelu(x)}, the erf form; {@code y} may be {@code x}. */
  void gelu(Tensor x, Tensor y);

  /**
   * {@code dX = dY * gelu'(x)}; {@code dX} may be {@code dY}.
   *
   * @param dBias F32 {@code [features]}: the sum over tokens of {@code dX} is added to it, as to
   *     the bias of the product that made {@code x}; may be null
   */
  void geluBackward(Tensor x, Tensor dY, Tensor dX, Tensor dBias);

  /**
   * {@code inner = x · weightᵀ + bias}, {@code y = gelu(inner)}, each {@code [tokens, out]}. A
   * device may make both at once.
   */
  default void linearGelu(Tensor x, Weight weight, Tensor bias, Tensor inner, Tensor y) {
    linear(x, weight, bias, Epilogue.NONE, inner, 0);
    gelu(inner, y);
  }

  /**
   * Back through the product that reads a GELU, and through the GELU: {@code dInner = (dY · weight)
   * * gelu'(inner)}. Adds to {@code dWeight}, under the terms of {@link #linearBackward}, and the
   * sum over tokens of {@code dInner} to {@code dInnerBias}.
   *
   * @param activated {@code gelu(inner) [tokens, in]}, the product's input
   * @param dY {@code [tokens, out]}
   * @param dInner {@code [tokens, in]}
   * @param dInnerBias F32 {@code [in]}
   */
  default void linearGeluBackward(
      Tensor activated,
      Weight weight,
      Tensor dY,
      Tensor dWeight,
      Tensor inner,
      Tensor dInner,
      Tensor dInnerBias) {
    linearBackward(activated, weight, dY, 0, dWeight, null, dInner, false);
    geluBackward(inner, dInner, dInner, dInnerBias);
  }

  /**
   * {@code y = dropout(x)} with the token as row and the feature as column; its own backward.
   * {@code y} may be {@code x}.
   */
  void dropout(Tensor x, Dropout dropout, Tensor y);

  /** {@code y += x}. */
  void add(Tensor x, Tensor y);

  /**
   * Softmax attention within each row of the batch: for each head {@code softmax(q · kᵀ /
   * sqrt(headSize)) · v}.
   *
   * @param qkv {@code [tokens, 3 * hidden]}: queries, keys, values side by side, heads side by side
   *     in each
   * @param dropout of the probabilities, with {@code token * heads + head} as row and the key's
   *     position as column
   * @param logSumExp F32 {@code [tokens, heads]} kept for the backward pass; null to keep nothing
   * @param out {@code [tokens, hidden]}
   */
  void attention(
      Tensor qkv, DeviceBatch batch, int heads, Dropout dropout, Tensor logSumExp, Tensor out);

  /**
   * Writes {@code dQkv [tokens, 3 * hidden]}.
   *
   * @param dBiases F32 {@code [hidden]} for queries, keys and values: the sums over tokens of their
   *     gradients are added to them, as to the biases of the products that made them
   */
  void attentionBackward(
      Tensor qkv,
      DeviceBatch batch,
      int heads,
      Dropout dropout,
      Tensor logSumExp,
      Tensor out,
      Tensor dOut,
      Tensor dQkv,
      List<Tensor> dBiases);

  /**
   * The question-answering loss: the mean over rows of the cross entropies of start and end,
   * halved, each over the tokens of its row.
   *
   * @param logits F32 {@code [tokens, 2]}: start and end
   * @param batch with its answers; one outside its row counts nothing, as does the row in the mean
   * @param weight of the loss
   * @param dLogits F32 {@code [tokens, 2]}, the gradient of the weighted loss
   * @param loss F32 {@code [1]}, the weighted loss is added to it
   */
  void spanLoss(Tensor logits, DeviceBatch batch, float weight, Tensor dLogits, Tensor loss);

  /**
   * The loss of a question-answering student against its teacher: the Kullback-Leibler divergence
   * of the student's distributions over the tokens of a row from the teacher's, logits divided by
   * the temperature, times its square; halved over start and end, averaged over the batch's rows.
   *
   * @param logits F32 {@code [tokens, 2]}
   * @param teacher F32 {@code [tokens, 2]}
   * @param dLogits F32 {@code [tokens, 2]}, the gradient of the weighted loss is added to it
   * @param loss F32 {@code [1]}, the weighted loss is added to it
   */
  void distillationLoss(
      Tensor logits,
      Tensor teacher,
      DeviceBatch batch,
      float temperature,
      float weight,
      Tensor dLogits,
      Tensor loss);

  /**
   * The loss of hidden states against the teacher's: {@code sum((student - teacher)^2) /
   * sum(teacher^2)} over the batch's own tokens.
   *
   * @param dStudent {@code [tokens, hidden]}, the gradient of the weighted loss is added to it
   * @param loss F32 {@code [1]}, the weighted loss is added to it
   */
  void hiddenLoss(
      Tensor student,
      Tensor teacher,
      DeviceBatch batch,
      float weight,
      Tensor dStudent,
      Tensor loss);

  /**
   * Chooses a 2:4 mask: of each four weights along the input the two of the largest magnitude, the
   * first among equals.
   *
   * @param weight F32 {@code [out, in]}, in a multiple of 4
   * @param mask U8 {@code [out, in]}, 1 keeps
   */
  void chooseMask(Tensor weight, Tensor mask);

  /**
   * One optimizer step over all parameters: clips the global norm, updates moments and values,
   * holds masked elements and their moments at exactly zero (or lets them fade or decay: {@link
   * AdamW#maskedKeep}, {@link AdamW#maskedDecay}), rounds the compute copies as {@link #round}
   * does, and sets the gradients to zero.
   *
   * @param step counts from 1
   * @param norm F32 {@code [1]}: the gradients' global L2 norm before clipping (masked elements
   *     left out)
   */
  void adamW(List<Parameter> parameters, AdamW settings, int step, Tensor norm);

  /**
   * Fixes the forward pass of a model for batches of up to so many tokens and rows: buffers from
   * one arena, weights packed, epilogues fused, kernels chosen by measurement. The model's weights
   * are read now; later changes to them are not seen.
   *
   * @param head a product over every token's last hidden state, or null for none
   */
  CompiledModel compile(BertModel model, Linear head, int maxTokens, int maxRows);

  @Override
  void close();
}
