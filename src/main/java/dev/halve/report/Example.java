package dev.halve.report;

import java.util.List;

/**
 * One evaluation question with what the dense and the sparse model answered.
 *
 * @param answers the right ones
 */
public record Example(
    String id, String question, String context, List<String> answers, String dense, String sparse) {
  public Example {
    answers = List.copyOf(answers);
  }
}
