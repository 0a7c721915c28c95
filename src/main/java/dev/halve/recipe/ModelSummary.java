package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.download.HuggingFaceHub;
import dev.halve.core.io.HybridLayout;
import dev.halve.core.io.OnnxWeights;
import dev.halve.core.io.Safetensors;
import dev.halve.core.io.SparseLayout;
import dev.halve.core.io.Weights;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.engine.PretrainedModel;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashSet;
import java.util.List;
import java.util.Optional;
import java.util.Set;
import java.util.function.Function;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/** What is in a model: its tensors, where their zeros lie, what they weigh. */
public final class ModelSummary {
  private ModelSummary() {}

  /**
   * One tensor. A weight that is stored compressed, in several, is one tensor of its dense shape.
   *
   * @param stored {@code dense}, or the layout of a compressed weight: {@code 2:4}, {@code
   *     sparse-24-bitmask}, {@code cutlass}, {@code 2:4 and dense rows}
   * @param pattern {@code dense}, {@code 2:4}, {@code unstructured, 81.3% zeros}; empty for vectors
   *     and for what holds no floats
   * @param sparsity the share of zeros, 0 to 1
   * @param semiStructured whether it is or can be stored as 2:4 values and metadata
   * @param denseBytes of the dense tensor
   * @param compressedBytes of values and metadata; {@code denseBytes} where it is not 2:4
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Entry(
      String name,
      DType dtype,
      List<Long> shape,
      String stored,
      String pattern,
      double sparsity,
      boolean semiStructured,
      long denseBytes,
      long compressedBytes) {}

  /**
   * A whole model.
   *
   * @param model the file, the folder or the name
   * @param compressedBytes with every 2:4 weight compressed
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Summary(
      String model, long parameters, long denseBytes, long compressedBytes, List<Entry> tensors) {}

  /**
   * The upper left corner of a tensor.
   *
   * @param values {@code [rows][columns]}; a vector has one row
   */
  public record Corner(
      String name, DType dtype, List<Long> shape, String pattern, float[][] values) {}

  /**
   * @param model a built-in model's name, a Hugging Face folder, a safetensors file, an index of
   *     shards, or an ONNX file
   * @throws HalveException if it cannot be read
   */
  public static Summary of(String model, Progress progress) {
    return open(model, progress, weights -> summary(model, weights, progress));
  }

  /**
   * @param tensor its name, with or without {@code .weight}
   * @param size rows and columns at the most
   * @throws HalveException if there is no such tensor; the message names some that there are
   */
  public static Corner corner(String model, String tensor, int size) {
    Settings.require(size >= 1, "corner", "1 or more", size);
    return open(
        model,
        Progress.NONE,
        weights -> {
          try (Arena arena = Arena.ofConfined()) {
            String name = resolve(model, weights.names(), tensor);
            return corner(name, dense(arena, weights, name), size);
          }
        });
  }

  private static <T> T open(String model, Progress progress, Function<Weights, T> use) {
    if (model.startsWith(HuggingFaceHub.SCHEME)) {
      try (PretrainedModel pretrained = StoredModel.open(model, progress)) {
        return use.apply(pretrained.weights());
      }
    }
    Path path = Path.of(model);
    if (Files.isRegularFile(path)) {
      try (Weights weights =
          model.endsWith(".onnx") ? OnnxWeights.open(path) : Safetensors.open(path)) {
        return use.apply(weights);
      }
    }
    if (Files.isDirectory(path) && !Files.exists(path.resolve("config.json"))) {
      try (Weights weights = Safetensors.open(path)) {
        return use.apply(weights);
      }
    }
    try (PretrainedModel pretrained = StoredModel.open(model, progress)) {
      return use.apply(pretrained.weights());
    }
  }

  private static Summary summary(String model, Weights weights, Progress progress) {
    List<Entry> entries = new ArrayList<>();
    Set<String> names = weights.names();
    Set<String> parts = new HashSet<>();
    for (String name : names) {
      SparseLayout.module(names, name)
          .ifPresent(module -> parts.addAll(layout(names, module).tensors(module)));
      HybridLayout.module(names, name)
          .ifPresent(module -> parts.addAll(HybridLayout.tensors(module)));
    }
    Stage stage = Stage.begin(progress, "read", names.size(), "tensors");
    int done = 0;
    for (String name : names) {
      Optional<String> module = SparseLayout.module(names, name);
      try (Arena arena = Arena.ofConfined()) {
        Optional<String> hybrid = HybridLayout.module(names, name);
        if (module.isPresent()) {
          entries.add(compressed(arena, weights, module.get()));
        } else if (hybrid.isPresent()) {
          entries.add(hybrid(arena, weights, hybrid.get()));
        } else if (!parts.contains(name)) {
          entries.add(dense(name, weights.tensor(arena, name)));
        }
      }
      stage.advance(++done, "");
    }
    stage.end();
    return new Summary(
        model,
        entries.stream().mapToLong(each -> Shape.of(extents(each)).elements()).sum(),
        entries.stream().mapToLong(Entry::denseBytes).sum(),
        entries.stream().mapToLong(Entry::compressedBytes).sum(),
        entries);
  }

  private static Entry dense(String name, Tensor tensor) {
    boolean weight = tensor.dtype().isFloating() && tensor.shape().rank() == 2;
    SparsityPattern pattern = weight ? SparsityPattern.of(tensor) : null;
    boolean semiStructured =
        weight && pattern.semiStructured() && pattern.kind() != SparsityPattern.Kind.DENSE;
    return new Entry(
        name,
        tensor.dtype(),
        shape(tensor.shape()),
        "dense",
        weight ? pattern.toString() : "",
        weight ? pattern.sparsity() : 0,
        semiStructured,
        tensor.bytes(),
        semiStructured
            ? SparseSemiStructuredTensor.bytes(tensor.shape(), tensor.dtype())
            : tensor.bytes());
  }

  private static SparseLayout layout(Set<String> names, String module) {
    return SparseLayout.of(names, module).orElseThrow();
  }

  private static Entry compressed(Arena arena, Weights weights, String module) {
    SparseLayout layout = layout(weights.names(), module);
    SparseSemiStructuredTensor sparse = layout.read(arena, weights, module);
    Tensor tensor = sparse.decompress(arena);
    SparsityPattern pattern = SparsityPattern.of(tensor);
    return new Entry(
        module + ".weight",
        tensor.dtype(),
        shape(tensor.shape()),
        layout.label(),
        pattern.toString(),
        pattern.sparsity(),
        true,
        sparse.denseBytes(),
        sparse.bytes());
  }

  private static Entry hybrid(Arena arena, Weights weights, String module) {
    HybridTensor hybrid = HybridLayout.read(weights, module);
    Tensor tensor = hybrid.decompress(arena);
    SparsityPattern pattern = SparsityPattern.of(tensor);
    return new Entry(
        module + ".weight",
        tensor.dtype(),
        shape(tensor.shape()),
        "2:4 and dense rows",
        pattern.toString(),
        pattern.sparsity(),
        false,
        tensor.bytes(),
        hybrid.bytes());
  }

  private static Tensor dense(Arena arena, Weights weights, String name) {
    String module = name.replaceFirst("\\.weight$", "");
    if (HybridLayout.holds(weights.names(), module)) {
      return HybridLayout.read(weights, module).decompress(arena);
    }
    Optional<SparseLayout> layout = SparseLayout.of(weights.names(), module);
    return weights.names().contains(name) || layout.isEmpty()
        ? weights.tensor(arena, name)
        : layout.get().read(arena, weights, module).decompress(arena);
  }

  private static Corner corner(String name, Tensor tensor, int size) {
    if (!tensor.dtype().isFloating() || tensor.shape().rank() < 1 || tensor.shape().rank() > 2) {
      throw new HalveException(
          "tensor %s is %s; a corner is shown of floats in one or two dimensions"
              .formatted(name, tensor));
    }
    long columns = tensor.extent(-1);
    long rows = tensor.shape().rank() == 1 ? 1 : tensor.extent(0);
    float[][] values = new float[(int) Math.min(size, rows)][(int) Math.min(size, columns)];
    for (int row = 0; row < values.length; row++) {
      for (int column = 0; column < values[row].length; column++) {
        values[row][column] = tensor.getFloat(row * columns + column);
      }
    }
    String pattern = rows > 1 ? SparsityPattern.of(tensor).toString() : "";
    return new Corner(name, tensor.dtype(), shape(tensor.shape()), pattern, values);
  }

  private static String resolve(String model, Set<String> names, String wanted) {
    for (String name : List.of(wanted, wanted + ".weight")) {
      if (names.contains(name)) {
        return name;
      }
    }
    String module = wanted.replaceFirst("\\.weight$", "");
    if (SparseLayout.of(names, module).isPresent() || HybridLayout.holds(names, module)) {
      return module + ".weight";
    }
    List<String> similar =
        names.stream()
            .filter(name -> name.contains(wanted.substring(wanted.lastIndexOf('.') + 1)))
            .limit(3)
            .toList();
    throw new HalveException(
        "%s: no tensor named '%s'; %s"
            .formatted(
                model,
                wanted,
                similar.isEmpty()
                    ? "inspect without --tensor lists them"
                    : "there is " + String.join(", ", similar)));
  }

  private static List<Long> shape(Shape shape) {
    return Arrays.stream(shape.extents()).boxed().toList();
  }

  private static long[] extents(Entry entry) {
    return entry.shape().stream().mapToLong(Long::longValue).toArray();
  }
}
