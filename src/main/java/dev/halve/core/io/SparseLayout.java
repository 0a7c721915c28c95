package dev.halve.core.io;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.CutlassLayout;
import dev.halve.core.sparse.Sparse24Bitmask;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.lang.foreign.Arena;
import java.util.Arrays;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.function.Function;
import java.util.stream.IntStream;

/**
 * The tensors in which files keep the 2:4 weight of a module, instead of {@code MODULE.weight}.
 * Between any two of them a weight moves without a bit changed.
 */
public enum SparseLayout {
  /** Halve's own, {@link SparseSemiStructuredTensor}: any floating type but F64. */
  HALVE("2:4", ".weight.values", ".weight.metadata"),
  /** That of compressed-tensors, {@link Sparse24Bitmask}. */
  SPARSE_24_BITMASK("sparse-24-bitmask", ".compressed", ".bitmask", ".shape"),
  /**
   * That of PyTorch's {@code SparseSemiStructuredTensorCUTLASS}, {@link CutlassLayout}, under its
   * field names {@code packed} and {@code meta}: F16 or BF16, out a multiple of 32, in of 64.
   */
  CUTLASS("cutlass", ".weight.packed", ".weight.meta");

  private final String label;
  private final List<String> parts;

  SparseLayout(String label, String... parts) {
    this.label = label;
    this.parts = List.of(parts);
  }

  /** The name of the format: {@code sparse-24-bitmask}. */
  public String label() {
    return label;
  }

  /** The layout in which a file has a module's weight, if any. */
  public static Optional<SparseLayout> of(Set<String> names, String module) {
    return Arrays.stream(values())
        .filter(layout -> names.contains(module + layout.parts.getFirst()))
        .findFirst();
  }

  /**
   * The module whose weight a tensor is the first part of, in a layout that is there as a whole.
   */
  public static Optional<String> module(Set<String> names, String tensor) {
    for (SparseLayout layout : values()) {
      String first = layout.parts.getFirst();
      if (tensor.endsWith(first)) {
        String module = tensor.substring(0, tensor.length() - first.length());
        if (layout.tensors(module).stream().allMatch(names::contains)) {
          return Optional.of(module);
        }
      }
    }
    return Optional.empty();
  }

  /** The names of a weight's tensors. */
  public List<String> tensors(String module) {
    return parts.stream().map(part -> module + part).toList();
  }

  /**
   * Reads and checks a weight; the arena owns what is not a view of the file.
   *
   * @throws HalveException if a part is missing, the parts do not fit each other, a position is
   *     impossible or a value not finite
   */
  public SparseSemiStructuredTensor read(Arena arena, Weights weights, String module) {
    for (String part : tensors(module)) {
      if (!weights.names().contains(part)) {
        throw new HalveException(
            "%s: tensor %s has no %s beside it"
                .formatted(weights.origin(), module + parts.getFirst(), part));
      }
    }
    List<Tensor> tensors =
        tensors(module).stream().map(name -> weights.tensor(arena, name)).toList();
    try {
      tensors.getFirst().requireFinite(module + parts.getFirst());
      return switch (this) {
        case HALVE -> {
          SparseSemiStructuredTensor weight =
              new SparseSemiStructuredTensor(
                  denseShape(tensors.getFirst()), tensors.getFirst(), tensors.get(1));
          weight.validate();
          yield weight;
        }
        case SPARSE_24_BITMASK ->
            new Sparse24Bitmask(tensors.get(2), tensors.get(0), tensors.get(1))
                .toSparseSemiStructured(arena);
        case CUTLASS ->
            new CutlassLayout(tensors.get(0), tensors.get(1)).toSparseSemiStructured(arena);
      };
    } catch (HalveException wrong) {
      throw wrong.in(weights.origin() + ": " + module + ".weight");
    }
  }

  private static Shape denseShape(Tensor values) {
    if (values.shape().rank() != 2 || !values.dtype().isFloating()) {
      throw new HalveException(
          "the values of a 2:4 weight are " + values + "; expected floats [out, in / 2]");
    }
    return Shape.of(values.extent(0), 2 * values.extent(1));
  }

  /** Why this layout has no such weight; empty where it has. */
  public Optional<String> refusal(Shape dense, DType dtype) {
    if (dense.rank() != 2 || dense.extent(1) % 4 != 0) {
      return Optional.of(dense + " is not [out, in] with in a multiple of 4");
    }
    if (dtype == DType.F64 || !dtype.isFloating()) {
      return Optional.of("it is " + dtype);
    }
    if (this == CUTLASS && dtype == DType.F32) {
      return Optional.of("PyTorch's layout has F16 and BF16 alone, and it is F32");
    }
    if (this == CUTLASS && (dense.extent(0) % 32 != 0 || dense.extent(1) % 64 != 0)) {
      return Optional.of(dense + " is not [out, in] with out a multiple of 32 and in of 64");
    }
    return Optional.empty();
  }

  /**
   * The tensors of a weight for a file, made when they are written.
   *
   * @param load the weight, of the given dense shape and type
   */
  public List<SafetensorsWriter.Entry> entries(
      String module, Shape dense, DType dtype, Function<Arena, SparseSemiStructuredTensor> load) {
    long out = dense.extent(0);
    long in = dense.extent(1);
    List<Part> made =
        switch (this) {
          case HALVE ->
              List.of(
                  new Part(dtype, Shape.of(out, in / 2), (arena, weight) -> weight.values()),
                  new Part(
                      DType.U8, Shape.of(out, (in + 7) / 8), (arena, weight) -> weight.metadata()));
          case SPARSE_24_BITMASK ->
              List.of(
                  new Part(dtype, Shape.of(out, in / 2), (arena, weight) -> weight.values()),
                  new Part(
                      DType.U8,
                      Shape.of(out, (in + 7) / 8),
                      (arena, weight) -> Sparse24Bitmask.of(arena, weight).bitmask()),
                  new Part(
                      DType.I64,
                      Shape.of(2, 1),
                      (arena, weight) -> Sparse24Bitmask.of(arena, weight).shape()));
          case CUTLASS ->
              List.of(
                  new Part(dtype, Shape.of(out, in / 2), (arena, weight) -> weight.values()),
                  new Part(
                      DType.I16,
                      Shape.of(out, in / 16),
                      (arena, weight) -> CutlassLayout.of(arena, weight).metadata()));
        };
    List<String> names = tensors(module);
    return IntStream.range(0, made.size())
        .mapToObj(i -> made.get(i).entry(names.get(i), load))
        .toList();
  }

  /** One tensor of a layout. */
  private record Part(DType dtype, Shape shape, Make make) {
    interface Make {
      Tensor of(Arena arena, SparseSemiStructuredTensor weight);
    }

    SafetensorsWriter.Entry entry(String name, Function<Arena, SparseSemiStructuredTensor> load) {
      return new SafetensorsWriter.Entry(
          name, dtype, shape, arena -> make.of(arena, load.apply(arena)));
    }
  }
}
