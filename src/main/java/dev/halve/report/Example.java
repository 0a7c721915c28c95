package dev.halve.report;

import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * One evaluation question with what the dense and the sparse model answered.
 *
 * @param answers the right ones
 * @param dense the dense model's answer
 * @param sparse the compressed model's answer
 * @param denseExact whether the dense answer is a right one after SQuAD's normalisation
 */
@JsonNaming(SnakeCaseStrategy.class)
public record Example(
    String id,
    String question,
    String context,
    List<String> answers,
    String dense,
    boolean denseExact,
    String sparse,
    boolean sparseExact) {
  public Example {
    answers = List.copyOf(answers);
  }
}
