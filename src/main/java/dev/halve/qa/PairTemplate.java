package dev.halve.qa;

/**
 * The special tokens that a tokenizer puts around a pair of texts: BERT's {@code [CLS] question
 * [SEP] context [SEP]}.
 *
 * @param before ids before the first text
 * @param between ids between the texts
 * @param after ids after the second
 * @param secondType the token type from the second text on; BERT's is 1, the first text's 0
 */
public record PairTemplate(int[] before, int[] between, int[] after, int secondType) {
  /** How many special tokens a pair gets. */
  public int count() {
    return before.length + between.length + after.length;
  }
}
