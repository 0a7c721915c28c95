package dev.halve.qa;

import java.util.Arrays;

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

  /** A text's ids between them, of which only as many stay as leave no more than so many in all. */
  public int[] around(int[] ids, int maxLength) {
    int kept = Math.clamp(maxLength - count(), 0, ids.length);
    int[] all = Arrays.copyOf(before, before.length + kept + after.length);
    System.arraycopy(ids, 0, all, before.length, kept);
    System.arraycopy(after, 0, all, before.length + kept, after.length);
    return all;
  }
}
