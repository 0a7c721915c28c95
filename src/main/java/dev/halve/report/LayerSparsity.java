package dev.halve.report;

import java.util.List;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * How sparse one weight is.
 *
 * @param name of the tensor: {@code bert.encoder.layer.0.attention.self.query.weight}
 * @param out rows of the weight
 * @param in columns of the weight
 * @param pattern {@code 2:4}, {@code dense}
 * @param sparsity the share of zeros, 0 to 1
 * @param denseBytes as F32
 * @param compressedBytes values and metadata as a file holds them; {@code denseBytes} where it is
 *     left dense
 */
@JsonNaming(SnakeCaseStrategy.class)
public record LayerSparsity(
    String name,
    long out,
    long in,
    String pattern,
    double sparsity,
    long denseBytes,
    long compressedBytes) {
  /** The share of zeros in all of them together. */
  public static double overall(List<LayerSparsity> layers) {
    double elements = layers.stream().mapToDouble(layer -> layer.out() * layer.in()).sum();
    double zeros =
        layers.stream().mapToDouble(layer -> layer.out() * layer.in() * layer.sparsity()).sum();
    return elements == 0 ? 0 : zeros / elements;
  }
}
