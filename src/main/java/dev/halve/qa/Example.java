package dev.halve.qa;

import java.util.List;

/**
 * One question about one context.
 *
 * @param context the examples of a paragraph share one {@code String}
 * @param answers the gold answers, the one that training uses first; empty where nobody knows them
 */
public record Example(String id, String question, String context, List<Answer> answers) {
  public Example {
    answers = List.copyOf(answers);
  }
}
