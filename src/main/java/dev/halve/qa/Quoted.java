package dev.halve.qa;

/** Texts of unknown length and content, as a one-line message shows them. */
final class Quoted {
  private static final int LONGEST = 60;

  private Quoted() {}

  /** The text in double quotes, its middle left out where it is long, its line breaks escaped. */
  static String of(String text) {
    String shown =
        text.length() <= LONGEST
            ? text
            : text.substring(0, LONGEST / 2)
                + "…"
                + text.substring(text.length() - LONGEST / 2 + 1);
    StringBuilder quoted = new StringBuilder("\"");
    for (int i = 0; i < shown.length(); i++) {
      char c = shown.charAt(i);
      if (Character.isISOControl(c) || c == '\u2028' || c == '\u2029') {
        quoted.append("\\u%04x".formatted((int) c));
      } else {
        quoted.append(c);
      }
    }
    return quoted.append('"').toString();
  }
}
