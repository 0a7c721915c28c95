package dev.halve.report;

import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * SQuAD v1.1 scores of one model.
 *
 * @param exactMatch per cent
 * @param f1 per cent
 */
@JsonNaming(SnakeCaseStrategy.class)
public record Score(double exactMatch, double f1) {}
