package dev.halve.qa;

/**
 * The special tokens that a tokenizer puts around one text: BERT's {@code [CLS] text [SEP]}.
 *
 * @param before ids before the text
 * @param after ids after it
 */
public record SingleTemplate(int[] before, int[] after) {
  /** How many special tokens a text gets. */
  public int count() {
    return before.length + after.length;
  }
}
