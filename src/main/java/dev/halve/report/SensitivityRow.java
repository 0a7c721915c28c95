package dev.halve.report;

import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * What happens when one layer is pruned and no other.
 *
 * @param layer the linear layer's name
 * @param elements of its weight
 * @param reconstructionError {@code ‖x·(W - Ŵ)ᵀ‖² / ‖x·Wᵀ‖²} on what the dense model feeds it
 * @param loss of the model on the questions; null where none were asked
 * @param score likewise
 */
@JsonNaming(SnakeCaseStrategy.class)
public record SensitivityRow(
    String layer, long elements, double reconstructionError, Double loss, Score score) {}
