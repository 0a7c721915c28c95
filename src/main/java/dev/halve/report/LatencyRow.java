package dev.halve.report;

import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * The time of one forward pass of one engine on one batch.
 *
 * @param engine {@code halve}, {@code onnxruntime}
 * @param weights {@code dense} or {@code 2:4}
 * @param mode {@code eager} or {@code compiled}
 * @param batch rows
 * @param seq the longest row, in tokens
 * @param tokens all rows together, without padding
 * @param msP10 the tenth percentile of the repeats, in milliseconds
 * @param msP50 the median, in milliseconds
 * @param msP90 the ninetieth percentile, in milliseconds
 * @param tokensPerS at the median
 */
@JsonNaming(SnakeCaseStrategy.class)
public record LatencyRow(
    String engine,
    String weights,
    String mode,
    int batch,
    int seq,
    int tokens,
    double msP10,
    double msP50,
    double msP90,
    double tokensPerS) {}
