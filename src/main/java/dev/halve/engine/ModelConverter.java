package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.io.HybridLayout;
import dev.halve.core.io.SafetensorsWriter;
import dev.halve.core.io.SparseLayout;
import dev.halve.core.io.Weights;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparse.SparsityPattern;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.HashSet;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.SequencedMap;
import java.util.Set;
import java.util.TreeSet;
import tools.jackson.databind.node.ArrayNode;
import tools.jackson.databind.node.ObjectNode;

/**
 * A stored model's tensors in another form, one at a time: a model may be larger than memory. A
 * weight keeps every bit, unless another type is asked for.
 */
final class ModelConverter {
  private final ModelSource source;
  private final Weights weights;
  private final SequencedMap<String, Shape> linears;
  private final DType dtype;
  private final List<String> compressed = new ArrayList<>();
  private final List<String> leftDense = new ArrayList<>();

  /**
   * @param dtype of floating tensors; null to keep each one's
   */
  ModelConverter(ModelSource source, StoredTensors tensors, DType dtype) {
    this.source = source;
    this.weights = source.weights();
    this.linears = tensors.linears();
    this.dtype = dtype;
    linears.forEach((module, shape) -> {
      // What a compressed weight is, its reading checks.
      if (layout(module) == null && !HybridLayout.holds(weights.names(), module)) {
        tensors.stored(module + ".weight", shape);
      }
    });
  }

  /** How many weights the layout has; known after entries. */
  int compressed() {
    return compressed.size();
  }

  /** Names of the encoder's linear weights that the layout does not have; known after entries. */
  List<String> leftDense() {
    return leftDense;
  }

  /** Of the tensors as they are stored. */
  long storedBytes() {
    return names().stream().mapToLong(this::storedBytes).sum();
  }

  private long storedBytes(String name) {
    try (Arena arena = Arena.ofConfined()) {
      return weights.tensor(arena, name).bytes();
    }
  }

  /** Of an ONNX graph's constants those that are a model's tensors; of other files all. */
  private Set<String> names() {
    if (!source.isOnnx()) {
      return weights.names();
    }
    Set<String> names = new LinkedHashSet<>();
    for (String name : weights.names()) {
      if (name.matches("[\\w.]+\\.(weight|bias|gamma|beta)")) {
        names.add(name);
      }
    }
    return names;
  }

  /**
   * Every tensor, announced.
   *
   * @param layout of 2:4 weights; null for dense ones
   */
  List<SafetensorsWriter.Entry> entries(SparseLayout layout) {
    Set<String> names = names();
    // A weight goes where its values are, so that back as a dense one it has its old place.
    Map<String, String> values = new HashMap<>();
    Set<String> parts = new HashSet<>();
    for (String name : names) {
      SparseLayout.module(names, name)
          .ifPresent(module -> {
            parts.addAll(layout(module).tensors(module));
            values.put(layout(module).tensors(module).getFirst(), module);
          });
      HybridLayout.module(names, name)
          .ifPresent(module -> {
            parts.addAll(HybridLayout.tensors(module));
            values.put(HybridLayout.denseRows(module), module);
          });
    }
    List<SafetensorsWriter.Entry> entries = new ArrayList<>();
    for (String name : names) {
      if (parts.contains(name)) {
        if (values.containsKey(name)) {
          entries.addAll(weight(values.get(name), layout));
        }
      } else if (layout != null && linears.containsKey(module(name))) {
        entries.addAll(weight(module(name), layout));
      } else {
        entries.add(dense(name));
      }
    }
    return entries;
  }

  /** Of a weight that is compressed; null where it is dense or hybrid. */
  private SparseLayout layout(String module) {
    return SparseLayout.of(weights.names(), module).orElse(null);
  }

  private static String module(String tensor) {
    return tensor.endsWith(".weight")
        ? tensor.substring(0, tensor.length() - ".weight".length())
        : "";
  }

  /** One weight to a layout; null stands for dense. */
  private List<SafetensorsWriter.Entry> weight(String module, SparseLayout layout) {
    String name = module + ".weight";
    try (Arena arena = Arena.ofConfined()) {
      Tensor stored = stored(arena, module);
      requireShape(module, stored.shape());
      Shape shape = stored.shape();
      DType written = dtype == null ? stored.dtype() : dtype;
      boolean semiStructured = layout(module) != null || isSemiStructured(arena, name, stored);
      Optional<String> refusal =
          layout == null || !semiStructured ? Optional.of("") : layout.refusal(shape, written);
      if (refusal.isEmpty()) {
        compressed.add(name);
        return layout.entries(module, shape, written, owner -> sparse(owner, module));
      }
      if (layout == SparseLayout.HALVE && written != DType.F64) {
        Tensor cast = cast(arena, name, stored);
        if (HybridTensor.fits(cast)) {
          compressed.add(name);
          return HybridLayout.entries(
              module,
              HybridTensor.compress(arena, cast),
              owner -> HybridTensor.compress(owner, cast(owner, name, stored(owner, module))));
        }
      }
      if (layout != null) {
        leftDense.add(name + (refusal.get().isEmpty() ? "" : ": " + refusal.get()));
      }
      return List.of(
          new SafetensorsWriter.Entry(
              name, written, shape, owner -> cast(owner, name, stored(owner, module))));
    }
  }

  /** A weight as it is stored, dense. */
  private Tensor stored(Arena arena, String module) {
    SparseLayout layout = layout(module);
    if (layout != null) {
      return layout.read(arena, weights, module).decompress(arena);
    }
    return HybridLayout.holds(weights.names(), module)
        ? HybridLayout.read(weights, module).decompress(arena)
        : weights.tensor(arena, module + ".weight");
  }

  private void requireShape(String module, Shape found) {
    Shape expected = linears.get(module);
    if (expected != null && !expected.equals(found)) {
      throw new HalveException(
          "%s: tensor %s.weight is %s, expected %s; config.json describes another model"
              .formatted(weights.origin(), module, found, expected));
    }
  }

  /** Whether it is 2:4, known to come back from compression as it was. */
  private static boolean isSemiStructured(Arena arena, String name, Tensor weight) {
    if (weight.dtype() == DType.F64 || !SparsityPattern.of(weight).semiStructured()) {
      return false;
    }
    Tensor again = SparseSemiStructuredTensor.compress(arena, weight).decompress(arena);
    // Bytes differ where a zero lost its sign, which is no loss.
    boolean same = weight.segment().mismatch(again.segment()) < 0;
    for (long i = 0; !same && i < weight.elements(); i++) {
      float was = weight.getFloat(i);
      float is = again.getFloat(i);
      if (was != is) {
        throw new HalveException(
            "%s does not survive compression: element %d is %s and comes back as %s; report this"
                .formatted(name, i, was, is));
      }
    }
    return true;
  }

  private SafetensorsWriter.Entry dense(String name) {
    Shape shape;
    DType type;
    try (Arena arena = Arena.ofConfined()) {
      Tensor stored = weights.tensor(arena, name);
      shape = stored.shape();
      type = stored.dtype();
    }
    DType written = dtype != null && type.isFloating() ? dtype : type;
    return new SafetensorsWriter.Entry(
        name, written, shape, arena -> cast(arena, name, weights.tensor(arena, name)));
  }

  private SparseSemiStructuredTensor sparse(Arena arena, String module) {
    String name = module + ".weight";
    SparseLayout layout = layout(module);
    if (layout == null) {
      return SparseSemiStructuredTensor.compress(arena, cast(arena, name, stored(arena, module)));
    }
    SparseSemiStructuredTensor stored = layout.read(arena, weights, module);
    Tensor values = cast(arena, name, stored.values());
    return new SparseSemiStructuredTensor(stored.shape(), values, stored.metadata());
  }

  /** In the wished type, rounded to nearest even. */
  private Tensor cast(Arena arena, String name, Tensor tensor) {
    if (dtype == null || tensor.dtype() == dtype || !tensor.dtype().isFloating()) {
      return tensor;
    }
    Tensor result = Tensor.allocate(arena, dtype, tensor.shape().extents());
    for (long i = 0; i < tensor.elements(); i++) {
      double value = tensor.getDouble(i);
      result.setFloat(i, (float) value);
      if (Float.isInfinite(result.getFloat(i)) && Double.isFinite(value)) {
        throw new HalveException(
            "%s: tensor %s has %s at %d, which %s cannot hold; %s"
                .formatted(
                    weights.origin(),
                    name,
                    value,
                    i,
                    dtype,
                    Float.isFinite((float) value) ? "BF16 can" : "find undamaged weights"));
      }
    }
    return result;
  }

  /** {@code config.json} for a folder of the entries. */
  ObjectNode config(SparseLayout layout, List<SafetensorsWriter.Entry> entries) {
    ObjectNode json = source.configJson().deepCopy();
    if (json.isEmpty()) {
      json.putArray("architectures").add(source.config().family().className() + "Model");
      ConfigFile.writeShape(source.config(), json);
    }
    json.remove("halve");
    json.remove("quantization_config");
    json.remove("compression_config");
    if (dtype != null) {
      ConfigFile.putType(json, dtype);
    }
    if (layout != null && !compressed.isEmpty()) {
      switch (layout) {
        case HALVE -> ConfigFile.putCompressed(json, compressed);
        case CUTLASS -> {
          ConfigFile.putCompressed(json, compressed);
          ((ObjectNode) json.get("halve"))
              .put(
                  "layout",
                  "NAME.packed and NAME.meta of PyTorch's SparseSemiStructuredTensorCUTLASS");
        }
        case SPARSE_24_BITMASK -> putBitmaskConfig(json, entries);
      }
    }
    return json;
  }

  /** As compressed-tensors writes it: which modules are not compressed, it wants to know. */
  private static void putBitmaskConfig(ObjectNode json, List<SafetensorsWriter.Entry> entries) {
    ObjectNode quantization = json.putObject("quantization_config");
    quantization.put("quant_method", "compressed-tensors");
    ObjectNode sparsity = quantization.putObject("sparsity_config");
    sparsity.put("format", SparseLayout.SPARSE_24_BITMASK.label());
    sparsity.put("sparsity_structure", "2:4");
    sparsity.put("global_sparsity", 0.5);
    sparsity.putArray("targets").add("Linear");
    ArrayNode ignore = sparsity.putArray("ignore");
    Set<String> dense = new TreeSet<>();
    for (SafetensorsWriter.Entry entry : entries) {
      if (entry.shape().rank() == 2
          && entry.name().endsWith(".weight")
          && !entry.name().contains("_embeddings.")) {
        dense.add(module(entry.name()));
      }
    }
    dense.forEach(ignore::add);
  }

  /** Writes {@code model.safetensors}. */
  static void write(Path folder, List<SafetensorsWriter.Entry> entries) {
    SafetensorsWriter.write(folder.resolve("model.safetensors"), entries, Map.of("format", "pt"));
  }
}
