package dev.halve.engine;

import dev.halve.core.Tensor;

/**
 * A model's forward pass, fixed for batches up to a size; made by {@link Device#compile}. One batch
 * at a time.
 */
public interface CompiledModel extends AutoCloseable {
  int maxTokens();

  int maxRows();

  /** Device memory of the packed weights, in bytes. */
  long weightBytes();

  /**
   * Runs one batch.
   *
   * @return on the host, F32 {@code [tokens, labels]} under a head and {@code [tokens, hidden]}
   *     without; valid until the next run
   */
  Tensor run(PackedBatch batch);

  @Override
  void close();
}
