package dev.halve.engine;

/**
 * The size of a batch as a device runs it: at least that of the batch itself, and rounded up where
 * the device prepares work per size ({@link Device#shape}).
 *
 * @param tokens of the buffers
 * @param rows of which some may be empty
 * @param longestRow that any row may have
 */
public record BatchShape(int tokens, int rows, int longestRow) {
  static BatchShape of(PackedBatch batch) {
    return new BatchShape(batch.tokens(), batch.rows(), batch.longestRow());
  }
}
