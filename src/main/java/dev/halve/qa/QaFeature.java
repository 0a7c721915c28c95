package dev.halve.qa;

import java.util.Arrays;

/**
 * One row of tokens for the model: a question with one window of its context, {@code [CLS] question
 * [SEP] context [SEP]}. No padding.
 *
 * @param example index of its question in {@link QaFeatures#examples()}
 * @param inputIds {@code [tokens]}
 * @param contextFrom position of the window's first token in the row
 * @param context the tokens of the whole context, shared by all rows about it
 * @param windowFrom index in {@code context} of the window's first token
 * @param windowTokens how many tokens of the context the window has
 * @param contextType the token type from {@code contextFrom} on, where the question's is 0
 * @param startPosition position in the row of the first gold answer's first token; 0 where the
 *     window has not all of the answer
 * @param endPosition of its last token, likewise
 */
public record QaFeature(
    int example,
    int[] inputIds,
    int contextFrom,
    Tokens context,
    int windowFrom,
    int windowTokens,
    int contextType,
    int startPosition,
    int endPosition) {
  /** How many tokens the row has. */
  public int length() {
    return inputIds.length;
  }

  /** {@code [tokens]}: 0 up to the context, {@link #contextType} from it on. */
  public int[] tokenTypeIds() {
    int[] types = new int[inputIds.length];
    Arrays.fill(types, contextFrom, types.length, contextType);
    return types;
  }

  /** Whether the token at a position of the row is one of the context. */
  public boolean isContext(int position) {
    return position >= contextFrom && position < contextFrom + windowTokens;
  }

  /** Where in the context the token at a position starts; of context tokens only. */
  public int contextStart(int position) {
    return context.starts()[windowFrom + position - contextFrom];
  }

  /** Where in the context the token at a position ends; of context tokens only. */
  public int contextEnd(int position) {
    return context.ends()[windowFrom + position - contextFrom];
  }
}
