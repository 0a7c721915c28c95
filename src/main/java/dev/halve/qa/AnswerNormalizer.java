package dev.halve.qa;

import java.util.ArrayList;
import java.util.List;

/**
 * Answers as the official SQuAD v1.1 evaluation compares them: lower case, no ASCII punctuation, no
 * articles, single spaces, in that order. That evaluation is a Python script, so lower case, word
 * boundaries and whitespace are Python's, which differ from Java's beyond ASCII.
 */
final class AnswerNormalizer {
  private static final int CAPITAL_SIGMA = 0x3A3;

  /** The characters of Word_Break MidLetter, MidNumLet and Single_Quote. */
  private static final String INSIDE_WORDS =
      "'.:\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a";

  private AnswerNormalizer() {}

  /** The words that are left of a text; joined by single spaces they are its normal form. */
  static List<String> words(String text) {
    String lower = withoutPunctuation(lowerCase(text));
    StringBuilder spaced = new StringBuilder(lower.length());
    int unit = 0;
    while (unit < lower.length()) {
      int end = wordEnd(lower, unit);
      if (end == unit) {
        int codePoint = lower.codePointAt(unit);
        end = unit + Character.charCount(codePoint);
        spaced.appendCodePoint(isSpace(codePoint) ? ' ' : codePoint);
      } else if (isArticle(lower, unit, end)) {
        spaced.append(' ');
      } else {
        spaced.append(lower, unit, end);
      }
      unit = end;
    }
    return split(spaced);
  }

  private static List<String> split(CharSequence spaced) {
    List<String> words = new ArrayList<>();
    int start = 0;
    for (int unit = 0; unit <= spaced.length(); unit++) {
      if (unit == spaced.length() || spaced.charAt(unit) == ' ') {
        if (unit > start) {
          words.add(spaced.subSequence(start, unit).toString());
        }
        start = unit + 1;
      }
    }
    return words;
  }

  private static String withoutPunctuation(String text) {
    StringBuilder kept = new StringBuilder(text.length());
    for (int unit = 0; unit < text.length(); unit++) {
      char c = text.charAt(unit);
      boolean punctuation =
          (c >= '!' && c <= '/')
              || (c >= ':' && c <= '@')
              || (c >= '[' && c <= '`')
              || (c >= '{' && c <= '~');
      if (!punctuation) {
        kept.append(c);
      }
    }
    return kept.toString();
  }

  /** The end of the run of word characters ({@code \w} in Python) that starts here. */
  private static int wordEnd(String text, int unit) {
    while (unit < text.length()) {
      int codePoint = text.codePointAt(unit);
      if (!isWord(codePoint)) {
        break;
      }
      unit += Character.charCount(codePoint);
    }
    return unit;
  }

  private static boolean isArticle(String text, int start, int end) {
    return switch (end - start) {
      case 1 -> text.charAt(start) == 'a';
      case 2 -> text.startsWith("an", start);
      case 3 -> text.startsWith("the", start);
      default -> false;
    };
  }

  /** Letters and everything numeric; no combining marks, which Java's {@code \w} includes. */
  private static boolean isWord(int codePoint) {
    return switch (Character.getType(codePoint)) {
      case Character.UPPERCASE_LETTER,
          Character.LOWERCASE_LETTER,
          Character.TITLECASE_LETTER,
          Character.MODIFIER_LETTER,
          Character.OTHER_LETTER,
          Character.DECIMAL_DIGIT_NUMBER,
          Character.LETTER_NUMBER,
          Character.OTHER_NUMBER ->
          true;
      default -> codePoint == '_';
    };
  }

  /** What {@code str.split()} splits at. */
  private static boolean isSpace(int codePoint) {
    return Character.isSpaceChar(codePoint)
        || (codePoint >= 0x09 && codePoint <= 0x0d)
        || (codePoint >= 0x1c && codePoint <= 0x1f)
        || codePoint == 0x85;
  }

  private static String lowerCase(String text) {
    StringBuilder lower = new StringBuilder(text.length());
    for (int unit = 0; unit < text.length(); ) {
      int codePoint = text.codePointAt(unit);
      int next = unit + Character.charCount(codePoint);
      if (codePoint == 0x130) {
        lower.append("i\u0307");
      } else if (codePoint == CAPITAL_SIGMA) {
        lower.append(endsWord(text, unit, next) ? 'ς' : 'σ');
      } else {
        lower.appendCodePoint(Character.toLowerCase(codePoint));
      }
      unit = next;
    }
    return lower.toString();
  }

  /** Unicode's condition Final_Sigma; Java's own asks for word breaks besides. */
  private static boolean endsWord(String text, int start, int end) {
    int before = start;
    while (before > 0 && isCaseIgnorable(text.codePointBefore(before))) {
      before -= Character.charCount(text.codePointBefore(before));
    }
    if (before == 0 || !isCased(text.codePointBefore(before))) {
      return false;
    }
    int after = end;
    while (after < text.length() && isCaseIgnorable(text.codePointAt(after))) {
      after += Character.charCount(text.codePointAt(after));
    }
    return after == text.length() || !isCased(text.codePointAt(after));
  }

  private static boolean isCased(int codePoint) {
    return Character.isLowerCase(codePoint)
        || Character.isUpperCase(codePoint)
        || Character.isTitleCase(codePoint);
  }

  private static boolean isCaseIgnorable(int codePoint) {
    return switch (Character.getType(codePoint)) {
      case Character.NON_SPACING_MARK,
          Character.ENCLOSING_MARK,
          Character.FORMAT,
          Character.MODIFIER_LETTER,
          Character.MODIFIER_SYMBOL ->
          true;
      default -> INSIDE_WORDS.indexOf(codePoint) >= 0;
    };
  }
}
