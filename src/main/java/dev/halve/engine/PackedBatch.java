package dev.halve.engine;

import dev.halve.core.HalveException;

/**
 * A batch of token rows, packed end to end without padding. Row {@code r} is the tokens {@code
 * [rowOffsets[r], rowOffsets[r + 1])}; a token's position is its index less its row's offset.
 *
 * @param tokenIds {@code [tokens]}
 * @param typeIds {@code [tokens]}, the segment of each token (0 question, 1 context)
 * @param rowOffsets {@code [rows + 1]}, ascending from 0 to the token count; no row is empty
 */
public record PackedBatch(int[] tokenIds, int[] typeIds, int[] rowOffsets) {
  public PackedBatch {
    if (rowOffsets.length < 2 || rowOffsets[0] != 0) {
      throw new IllegalArgumentException("row offsets start at 0 and name at least one row");
    }
    for (int row = 0; row + 1 < rowOffsets.length; row++) {
      if (rowOffsets[row + 1] <= rowOffsets[row]) {
        throw new IllegalArgumentException("row " + row + " of the batch is empty");
      }
    }
    int tokens = rowOffsets[rowOffsets.length - 1];
    if (tokenIds.length != tokens || typeIds.length != tokens) {
      throw new IllegalArgumentException(
          "row offsets end at %d, but there are %d token ids and %d type ids"
              .formatted(tokens, tokenIds.length, typeIds.length));
    }
  }

  /** Packs rows of token ids and, in parallel, of type ids. */
  public static PackedBatch of(int[][] tokenIds, int[][] typeIds) {
    int[] rowOffsets = new int[tokenIds.length + 1];
    for (int row = 0; row < tokenIds.length; row++) {
      rowOffsets[row + 1] = rowOffsets[row] + tokenIds[row].length;
    }
    int[] ids = new int[rowOffsets[tokenIds.length]];
    int[] types = new int[ids.length];
    for (int row = 0; row < tokenIds.length; row++) {
      System.arraycopy(tokenIds[row], 0, ids, rowOffsets[row], tokenIds[row].length);
      System.arraycopy(typeIds[row], 0, types, rowOffsets[row], tokenIds[row].length);
    }
    return new PackedBatch(ids, types, rowOffsets);
  }

  public int tokens() {
    return tokenIds.length;
  }

  public int rows() {
    return rowOffsets.length - 1;
  }

  public int rowLength(int row) {
    return rowOffsets[row + 1] - rowOffsets[row];
  }

  public int longestRow() {
    int longest = 0;
    for (int row = 0; row < rows(); row++) {
      longest = Math.max(longest, rowLength(row));
    }
    return longest;
  }

  /**
   * Checks the batch against a model.
   *
   * @throws HalveException naming the row or token that the model cannot take
   */
  public void check(BertConfig config) {
    if (longestRow() > config.maxPositionEmbeddings()) {
      throw new HalveException(
          "a row of %d tokens is longer than the model's %d positions; lower max_length to %d"
              .formatted(
                  longestRow(), config.maxPositionEmbeddings(), config.maxPositionEmbeddings()));
    }
    if (outside(tokenIds, config.vocabSize()) || outside(typeIds, config.typeVocabSize())) {
      reject(config);
    }
  }

  /**
   * Checks the batch against a compiled model.
   *
   * @throws HalveException as {@link #check(BertConfig)}, or if there are more tokens or rows than
   *     the model was compiled for
   */
  public void check(BertConfig config, int maxTokens, int maxRows) {
    if (tokens() > maxTokens || rows() > maxRows) {
      throw new HalveException(
          "the batch has %d tokens in %d rows; the model is compiled for %d tokens in %d rows"
              .formatted(tokens(), rows(), maxTokens, maxRows));
    }
    check(config);
  }

  /** Without branches, so that the compiler vectorises it: it runs before every forward pass. */
  private static boolean outside(int[] values, int bound) {
    int outside = 0;
    for (int value : values) {
      outside |= value | (bound - 1 - value);
    }
    return outside < 0;
  }

  private void reject(BertConfig config) {
    for (int token = 0; token < tokenIds.length; token++) {
      if (tokenIds[token] < 0 || tokenIds[token] >= config.vocabSize()) {
        throw new HalveException(
            "token id %d is outside the model's vocabulary of %d; the tokenizer does not belong to the model"
                .formatted(tokenIds[token], config.vocabSize()));
      }
      if (typeIds[token] < 0 || typeIds[token] >= config.typeVocabSize()) {
        throw new HalveException(
            "token type %d is outside the model's %d types"
                .formatted(typeIds[token], config.typeVocabSize()));
      }
    }
  }
}
