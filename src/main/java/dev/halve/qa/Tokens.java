package dev.halve.qa;

/**
 * The tokens of one text, without special tokens.
 *
 * @param ids {@code [tokens]}, in the vocabulary
 * @param starts {@code [tokens]}, where each token starts in the text, in UTF-16 units
 * @param ends {@code [tokens]}, the unit after its last
 */
public record Tokens(int[] ids, int[] starts, int[] ends) {
  public int count() {
    return ids.length;
  }
}
