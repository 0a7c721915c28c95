package dev.halve.core;

import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.json.JsonMapper;

/** What PyTorch made of some weights; {@code torch_reference.py} beside the file says how. */
public final class TorchReference {
  private TorchReference() {}

  public static JsonNode read() throws IOException {
    try (InputStream in = TorchReference.class.getResourceAsStream("torch_reference.json")) {
      return JsonMapper.shared().readTree(in);
    }
  }

  /** The script's {@code weight}. */
  public static Tensor weight(Arena arena, DType dtype, int rows, int columns, int seed) {
    Tensor weight = Tensor.allocate(arena, dtype, rows, columns);
    for (long i = 0; i < weight.elements(); i++) {
      weight.setFloat(i, ((i * 7919 + seed * 104729L) % 65521 + 1) * sign(i, seed) / 65536f);
    }
    return weight;
  }

  /** The script's {@code small_weight}. */
  public static Tensor smallWeight(Arena arena, DType dtype, int rows, int columns, int seed) {
    Tensor weight = Tensor.allocate(arena, dtype, rows, columns);
    for (long i = 0; i < weight.elements(); i++) {
      weight.setFloat(i, (float) ((i * 7919 + seed) % 2039 + 1) * sign(i, seed));
    }
    return weight;
  }

  private static int sign(long i, int seed) {
    return (int) (1 - 2 * ((i * 31 + seed) % 2));
  }
}
