package dev.halve.report;

/** Text that is safe inside a page. */
final class Html {
  private Html() {}

  /** For element content and for attributes in double quotes. */
  static String escape(Object value) {
    String text = String.valueOf(value);
    StringBuilder safe = new StringBuilder(text.length());
    for (int i = 0; i < text.length(); i++) {
      char c = text.charAt(i);
      switch (c) {
        case '&' -> safe.append("&amp;");
        case '<' -> safe.append("&lt;");
        case '>' -> safe.append("&gt;");
        case '"' -> safe.append("&quot;");
        default -> {
          // Control characters are no HTML, and the data may hold any.
          if (c >= ' ' || c == '\n' || c == '\t') {
            safe.append(c);
          }
        }
      }
    }
    return safe.toString();
  }
}
