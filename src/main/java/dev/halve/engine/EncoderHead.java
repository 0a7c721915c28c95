package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;

/** What turns an encoder's last hidden states into a task's numbers, on the host. */
public sealed interface EncoderHead
    permits SequenceClassificationHead, TokenClassificationHead, Pooling {
  /**
   * @param lastHidden F32 {@code [tokens, hidden]} on the host, as {@link CompiledModel#run} gives
   *     it
   * @return a line of numbers for each row of the batch, or, under token classification, for each
   *     of its tokens
   */
  float[][] apply(Tensor lastHidden, PackedBatch batch);

  /** One token's hidden state, {@code [hidden]}. */
  static float[] token(Tensor lastHidden, int token) {
    if (lastHidden.dtype() != DType.F32) {
      throw new IllegalArgumentException("hidden states are " + lastHidden);
    }
    int hidden = (int) lastHidden.extent(1);
    float[] state = new float[hidden];
    MemorySegment.copy(
        lastHidden.segment(),
        ValueLayout.JAVA_FLOAT,
        (long) token * hidden * Float.BYTES,
        state,
        0,
        hidden);
    return state;
  }
}
