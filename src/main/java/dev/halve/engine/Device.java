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

  /** Copies host to device, rounding where the floating types differ. */
  void upload(Tensor host, Tensor device);

  /**
   * Waits for the operations before it, then copies device to host, converting where the floating
   * types differ.
   */
  void download(Tensor device, Tensor host);

  void zero(Tensor tensor);

  /** Brings a parameter's {@code compute} copy in step with its {@code value}. */
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
   * dPosition}, {@code dType}.
   */
  void embedBackward(DeviceBatch batch, Tensor dOut, Tensor dWord, Tensor dPosition, Tensor dType);

  /**
   * {@code out = (s - mean) / sqrt(variance + epsilon) * gamma + beta} over each token of {@code s
   * = x + residual}.
   *
   * @param residual {@code [tokens, hidden]}, or null for none
   * @param sum where {@code s} is kept for the backward pass, {@code [tokens, hidden]}, may be
   *     {@code x}; null to keep nothing
   * @param statistics F32 {@code [tokens, 2]} for mean and reciprocal deviation; null to keep
   *     nothing
   */
  void layerNorm(
      Tensor x,
      Tensor residual,
      Tensor gamma,
      Tensor beta,
      float epsilon,
      Tensor sum,
      Tensor statistics,
      Tensor out);

  /**
   * Writes {@code dSum}, adds to {@code dGamma} and {@code dBeta} (F32 {@code [hidden]}). {@code
   * dSum} may be {@code dOut}.
   */
  void layerNormBackward(
      Tensor sum,
      Tensor statistics,
      Tensor gamma,
      Tensor dOut,
      Tensor dSum,
      Tensor dGamma,
      Tensor dBeta);

  /**
   * {@code y[:, column : column + out] = epilogue(x · weightᵀ + bias)}.
   *
   * @param x {@code [tokens, in]}
   * @param bias {@code [out]}
   * @param y {@code [tokens, width]} with {@code column + out <= width}
   */
  void linear(Tensor x, Weight weight, Tensor bias, Epilogue epilogue, Tensor y, int column);

  /**
   * The gradients of {@link #linear} without epilogue: adds to {@code dWeight} (F32 {@code [out,
   * in]}) and {@code dBias} (F32 {@code [out]}); writes {@code dX [tokens, in]}, or adds to it.
   *
   * @param dY {@code [tokens, width]}, read in columns {@code [column, column + out)}
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

  /** {@code y = gelu(x)}, the erf form; {@code y} may be {@code x}. */
  void gelu(Tensor x, Tensor y);

  /** {@code dX = dY * gelu'(x)}; {@code dX} may be {@code dY}. */
  void geluBackward(Tensor x, Tensor dY, Tensor dX);

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

  /** Writes {@code dQkv [tokens, 3 * hidden]}. */
  void attentionBackward(
      Tensor qkv,
      DeviceBatch batch,
      int heads,
      Dropout dropout,
      Tensor logSumExp,
      Tensor out,
      Tensor dOut,
      Tensor dQkv);

  /**
   * The question-answering loss: the mean over rows of the cross entropies of start and end,
   * halved, each over the tokens of its row.
   *
   * @param logits {@code [tokens, 2]}: start and end
   * @param starts I32 {@code [rows]}, positions within the row; one at or past the row's end counts
   *     nothing, as do its row's in the mean
   * @param dLogits {@code [tokens, 2]}, the gradient of the loss
   * @param loss F32 {@code [1]}, added to
   */
  void spanLoss(
      Tensor logits, DeviceBatch batch, Tensor starts, Tensor ends, Tensor dLogits, Tensor loss);

  /**
   * One optimizer step over all parameters: clips the global norm, updates moments and values,
   * holds masked elements and their moments at exactly zero, rounds the compute copies, and sets
   * the gradients to zero.
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
