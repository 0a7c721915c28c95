package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.io.HybridLayout;
import dev.halve.core.io.SafetensorsWriter;
import dev.halve.core.io.SparseLayout;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** A model's parameters as its family stores them. */
final class ModelWriter {
  private ModelWriter() {}

  /** The names of the parameters that are stored as values and metadata. */
  static List<String> compressed(BertForQuestionAnswering model) {
    return model.bert().linears().stream()
        .filter(linear -> linear.weight() instanceof Weight.Compressed)
        .map(linear -> linear.name() + ".weight")
        .toList();
  }

  /**
   * @param positionOffset rows of the stored position table before position 0
   * @param unusedPositions what those rows were, {@code [positionOffset, embedding]}; null for
   *     zeros
   */
  static void write(
      BertForQuestionAnswering model, int positionOffset, Tensor unusedPositions, Path file) {
    Device device = model.device();
    Embeddings embeddings = model.bert().embeddings();
    List<SafetensorsWriter.Entry> entries = new ArrayList<>();
    for (Parameter parameter : model.parameters()) {
      if (parameter == embeddings.type() && !model.config().family().hasTokenTypes()) {
        continue;
      }
      long[] extents = parameter.value().shape().extents();
      boolean positions = parameter == embeddings.position();
      if (positions) {
        extents[0] += positionOffset;
      }
      entries.add(
          new SafetensorsWriter.Entry(
              parameter.name(),
              DType.F32,
              Shape.of(extents),
              arena ->
                  positions
                      ? positions(arena, model, positionOffset, unusedPositions)
                      : download(arena, device, parameter)));
    }
    for (Linear linear : model.bert().linears()) {
      if (linear.weight() instanceof Weight.Compressed weight) {
        SparseSemiStructuredTensor one = weight.packed().unpack(Arena.ofAuto());
        entries.addAll(
            SparseLayout.HALVE.entries(
                linear.name(), weight.shape(), one.values().dtype(), _ -> one));
      } else if (linear.weight() instanceof Weight.Hybrid) {
        Arena arena = Arena.ofAuto();
        HybridTensor hybrid = HybridTensor.compress(arena, linear.weight(arena));
        entries.addAll(HybridLayout.entries(linear.name(), hybrid));
      }
    }
    SafetensorsWriter.write(file, entries, Map.of("format", "pt"));
  }

  private static Tensor download(Arena arena, Device device, Parameter parameter) {
    Tensor host = Tensor.allocate(arena, DType.F32, parameter.value().shape().extents());
    device.download(parameter.value(), host);
    return host;
  }

  /** The stored table: rows that no position has, then the positions'. */
  private static Tensor positions(
      Arena arena, BertForQuestionAnswering model, int offset, Tensor unused) {
    Embeddings embeddings = model.bert().embeddings();
    Tensor positions = download(arena, model.device(), embeddings.position());
    if (!model.config().family().hasTokenTypes()) {
      addToEach(positions, download(arena, model.device(), embeddings.type()));
    }
    if (offset == 0) {
      return positions;
    }
    Tensor table =
        Tensor.allocate(arena, DType.F32, positions.extent(0) + offset, positions.extent(1));
    if (unused != null) {
      table.rows(0, offset).copyFrom(unused);
    }
    table.rows(offset, positions.extent(0)).copyFrom(positions);
    return table;
  }

  /**
   * Training moves the one row of token types that the family does not have; every token has it, as
   * every token has a position. One of zeros changes no bit.
   */
  private static void addToEach(Tensor positions, Tensor type) {
    long width = positions.extent(1);
    for (long i = 0; i < positions.elements(); i++) {
      float shift = type.getFloat(i % width);
      if (shift != 0) {
        positions.segment().setAtIndex(ValueLayout.JAVA_FLOAT, i, positions.getFloat(i) + shift);
      }
    }
  }
}
