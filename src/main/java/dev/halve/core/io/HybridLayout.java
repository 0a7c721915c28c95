package dev.halve.core.io;

import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.lang.foreign.Arena;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.IntStream;

/** The tensors in which files keep a {@link HybridTensor}, instead of {@code MODULE.weight}. */
public final class HybridLayout {
  private static final List<String> PARTS =
      List.of(
          ".weight.dense_blocks",
          ".weight.dense_rows",
          ".weight.sparse_values",
          ".weight.sparse_metadata");

  private HybridLayout() {}

  /** The names of a weight's tensors. */
  public static List<String> tensors(String module) {
    return PARTS.stream().map(part -> module + part).toList();
  }

  /** The name of a weight's dense rows. */
  public static String denseRows(String module) {
    return module + PARTS.get(1);
  }

  /** The module whose weight a tensor is the first part of, where all parts are there. */
  public static Optional<String> module(Set<String> names, String tensor) {
    String first = PARTS.getFirst();
    if (!tensor.endsWith(first)) {
      return Optional.empty();
    }
    String module = tensor.substring(0, tensor.length() - first.length());
    return names.containsAll(tensors(module)) ? Optional.of(module) : Optional.empty();
  }

  /** Whether a file has a module's weight so. */
  public static boolean holds(Set<String> names, String module) {
    return names.contains(module + PARTS.getFirst());
  }

  /**
   * Reads and checks a weight, as views of the file.
   *
   * @throws HalveException if a part is missing, the parts do not fit each other, a position is
   *     impossible or a value not finite
   */
  public static HybridTensor read(Weights weights, String module) {
    for (String part : PARTS) {
      if (!weights.names().contains(module + part)) {
        throw new HalveException(
            "%s: tensor %s has no %s beside it"
                .formatted(weights.origin(), module + PARTS.getFirst(), module + part));
      }
    }
    List<Tensor> parts = PARTS.stream().map(part -> weights.tensor(module + part)).toList();
    try {
      Tensor blocks = parts.get(0);
      Tensor dense = parts.get(1);
      Tensor values = parts.get(2);
      if (dense.shape().rank() != 2 || values.shape().rank() != 2) {
        throw new HalveException(
            "its rows are " + dense + " and " + values + "; expected [rows, in]");
      }
      dense.requireFinite("dense_rows");
      values.requireFinite("sparse_values");
      long in = dense.extent(1);
      SparseSemiStructuredTensor sparse =
          new SparseSemiStructuredTensor(Shape.of(values.extent(0), in), values, parts.get(3));
      sparse.validate();
      Shape shape = Shape.of(dense.extent(0) + values.extent(0), in);
      return new HybridTensor(shape, blocks, dense, sparse);
    } catch (HalveException wrong) {
      throw wrong.in(weights.origin() + ": " + module + ".weight");
    }
  }

  /** What a file holds of a weight. */
  public static List<SafetensorsWriter.Entry> entries(String module, HybridTensor hybrid) {
    return entries(module, hybrid, _ -> hybrid);
  }

  /**
   * The same, made when it is written.
   *
   * @param announced a weight of the same shapes and type, used for those alone
   */
  public static List<SafetensorsWriter.Entry> entries(
      String module, HybridTensor announced, Function<Arena, HybridTensor> load) {
    List<Tensor> shapes = parts(announced);
    return IntStream.range(0, PARTS.size())
        .mapToObj(i ->
            new SafetensorsWriter.Entry(
                module + PARTS.get(i),
                shapes.get(i).dtype(),
                shapes.get(i).shape(),
                arena -> parts(load.apply(arena)).get(i)))
        .toList();
  }

  private static List<Tensor> parts(HybridTensor hybrid) {
    return List.of(
        hybrid.denseBlocks(), hybrid.dense(), hybrid.sparse().values(), hybrid.sparse().metadata());
  }
}
