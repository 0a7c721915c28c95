package dev.halve.report;

import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * What a model weighs, in bytes.
 *
 * @param denseFile {@code model.safetensors} of the dense model
 * @param sparseFile {@code model.safetensors} of the compressed model
 * @param denseLinear the encoder's linear weights in the dense file
 * @param sparseLinear the same weights in the compressed file: values and metadata
 * @param denseMemory the same weights as the device holds them for inference, dense
 * @param sparseMemory and compressed
 */
@JsonNaming(SnakeCaseStrategy.class)
public record ModelSize(
    long denseFile,
    long sparseFile,
    long denseLinear,
    long sparseLinear,
    long denseMemory,
    long sparseMemory) {}
