package dev.halve.qa;

/** Where each Unicode code point of a text lies among its UTF-16 units. */
final class CodePoints {
  private final String text;

  /** Units by code point, one past the end too; null where both counts are the same. */
  private final int[] units;

  CodePoints(String text) {
    this.text = text;
    int count = text.codePointCount(0, text.length());
    if (count == text.length()) {
      units = null;
      return;
    }
    units = new int[count + 1];
    for (int point = 0, unit = 0; point < count; point++) {
      units[point] = unit;
      unit += Character.charCount(text.codePointAt(unit));
    }
    units[count] = text.length();
  }

  /** The text with U+FFFD in place of each surrogate that is not half of a pair. */
  static String wellFormed(String text) {
    StringBuilder repaired = null;
    for (int unit = 0; unit < text.length(); unit++) {
      char c = text.charAt(unit);
      if (!Character.isSurrogate(c)) {
        continue;
      }
      if (Character.isSupplementaryCodePoint(text.codePointAt(unit))) {
        unit++;
        continue;
      }
      repaired = repaired == null ? new StringBuilder(text) : repaired;
      repaired.setCharAt(unit, '\ufffd');
    }
    return repaired == null ? text : repaired.toString();
  }

  String text() {
    return text;
  }

  int count() {
    return units == null ? text.length() : units.length - 1;
  }

  /** The unit at which a code point starts, the text's length after the last; -1 outside. */
  int unit(int codePoint) {
    if (codePoint < 0 || codePoint > count()) {
      return -1;
    }
    return units == null ? codePoint : units[codePoint];
  }
}
