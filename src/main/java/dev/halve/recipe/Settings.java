package dev.halve.recipe;

import dev.halve.core.HalveException;

/** The check that every settings record makes. */
final class Settings {
  private Settings() {}

  /**
   * @throws HalveException {@code "batch size must be 1 or more, found 0"}
   */
  static void require(boolean holds, String name, String expected, Object found) {
    if (!holds) {
      throw new HalveException("%s must be %s, found %s".formatted(name, expected, found));
    }
  }
}
