package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.io.OnnxWeights;
import dev.halve.core.io.Safetensors;
import dev.halve.core.io.Weights;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.engine.PretrainedModel;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.function.Function;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/** What is in a model: its tensors, where their zeros lie, what they weigh. */
public final class ModelSummary {
  private static final String VALUES = ".values";
  private static final String METADATA = ".metadata";

  private ModelSummary() {}

  /**
   * One tensor. A weight that is stored as values and metadata is one tensor, of its dense shape.
   *
   * @param stored {@code dense} or {@code 2:4}
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
    return open(model, source -> summary(model, source, progress));
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
        source -> {
          try (Arena arena = Arena.ofConfined()) {
            String name = resolve(model, source.names(), tensor);
            return corner(name, dense(arena, source, name), size);
          }
        });
  }

  /** Named tensors of any origin. */
  private record Source(Set<String> names, Function<String, Tensor> tensors) {
    boolean compressed(String name) {
      return names.contains(name + VALUES) && names.contains(name + METADATA);
    }
  }

  private static <T> T open(String model, Function<Source, T> use) {
    Path path = Path.of(model);
    if (Files.isRegularFile(path)) {
      try (Weights weights =
          model.endsWith(".onnx") ? OnnxWeights.open(path) : Safetensors.open(path)) {
        return use.apply(new Source(weights.names(), weights::tensor));
      }
    }
    if (Files.isDirectory(path) && !Files.exists(path.resolve("config.json"))) {
      try (Weights weights = Safetensors.open(path)) {
        return use.apply(new Source(weights.names(), weights::tensor));
      }
    }
    try (PretrainedModel pretrained = PretrainedModel.open(model)) {
      return use.apply(new Source(pretrained.tensorNames(), pretrained::tensor));
    }
  }

  private static Summary summary(String model, Source source, Progress progress) {
    List<Entry> entries = new ArrayList<>();
    progress.begin("read", source.names().size(), "tensors");
    long start = System.nanoTime();
    int done = 0;
    for (String name : source.names()) {
      done++;
      if (name.endsWith(METADATA) && source.compressed(stem(name, METADATA))) {
        continue;
      }
      if (name.endsWith(VALUES) && source.compressed(stem(name, VALUES))) {
        entries.add(compressed(source, stem(name, VALUES)));
      } else {
        entries.add(dense(name, source.tensors().apply(name)));
      }
      progress.advance(done, done / ((System.nanoTime() - start) / 1e9), "");
    }
    progress.end("read", (System.nanoTime() - start) / 1e9);
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

  private static Entry compressed(Source source, String name) {
    try (Arena arena = Arena.ofConfined()) {
      SparseSemiStructuredTensor sparse = sparse(source, name);
      Tensor tensor = sparse.decompress(arena);
      SparsityPattern pattern = SparsityPattern.of(tensor);
      return new Entry(
          name,
          tensor.dtype(),
          shape(tensor.shape()),
          "2:4",
          pattern.toString(),
          pattern.sparsity(),
          true,
          sparse.denseBytes(),
          sparse.bytes());
    }
  }

  private static SparseSemiStructuredTensor sparse(Source source, String name) {
    Tensor values = source.tensors().apply(name + VALUES);
    Tensor metadata = source.tensors().apply(name + METADATA);
    if (values.shape().rank() != 2) {
      throw new HalveException(name + VALUES + " is " + values + "; expected [out, in / 2]");
    }
    try {
      return new SparseSemiStructuredTensor(
          Shape.of(values.extent(0), 2 * values.extent(1)), values, metadata);
    } catch (HalveException misfit) {
      throw misfit.in(name);
    }
  }

  private static Tensor dense(Arena arena, Source source, String name) {
    return source.compressed(name)
        ? sparse(source, name).decompress(arena)
        : source.tensors().apply(name);
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
      if (names.contains(name) || names.contains(name + VALUES)) {
        return name;
      }
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

  private static String stem(String name, String ending) {
    return name.substring(0, name.length() - ending.length());
  }

  private static List<Long> shape(Shape shape) {
    return java.util.Arrays.stream(shape.extents()).boxed().toList();
  }

  private static long[] extents(Entry entry) {
    return entry.shape().stream().mapToLong(Long::longValue).toArray();
  }
}
