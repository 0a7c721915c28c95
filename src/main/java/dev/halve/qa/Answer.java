package dev.halve.qa;

/**
 * A gold answer: a span of its context.
 *
 * @param text as the file has it
 * @param start index of its first {@code char} in the context, in UTF-16 units as Java counts,
 *     where files count Unicode code points
 */
public record Answer(String text, int start) {
  /** Index after its last {@code char} in the context. */
  public int end() {
    return start + text.length();
  }
}
