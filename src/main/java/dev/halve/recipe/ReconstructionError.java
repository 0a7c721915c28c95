package dev.halve.recipe;

import dev.halve.core.Tensor;
import dev.halve.core.sparsify.InputMoments;
import dev.halve.engine.BertModel;
import dev.halve.engine.LayerwisePass;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;

/**
 * How far a pruned layer's products are from the dense layer's, on what the dense model feeds it:
 * {@code ‖x·(W - Ŵ)ᵀ‖² / ‖x·Wᵀ‖²}. Every layer is judged alone, on the same inputs whatever the
 * method, so that methods and layers can be compared.
 *
 * <p>Holds the moments of every product's input: {@code 8 · in²} bytes each, 1.1 GB in all for
 * BERT-base.
 */
final class ReconstructionError implements AutoCloseable {
  private final Map<String, InputMoments> moments = new HashMap<>();
  private final Map<String, Tensor> dense = new HashMap<>();
  private final Map<String, Double> squares = new HashMap<>();
  private final List<InputMoments> owned = new ArrayList<>();
  private final Arena arena = Arena.ofShared();

  @SuppressWarnings("MustBeClosedChecker") // closed with this object
  ReconstructionError(BertModel model, List<PackedBatch> text, Progress progress) {
    try (LayerwisePass pass = new LayerwisePass(model, text)) {
      Stage stage = Stage.begin(progress, "inputs of the dense model", pass.stops(), "products");
      for (var stop = pass.next(); stop != null; stop = pass.next()) {
        stage.checkStop("nothing is kept");
        InputMoments read = Calibration.moments(pass, stop);
        owned.add(read);
        for (Linear reader : stop.readers()) {
          Tensor weight = reader.weight(arena);
          moments.put(reader.name(), read);
          dense.put(reader.name(), weight);
          squares.put(reader.name(), Arrays.stream(read.squaredErrors(weight)).sum());
        }
        stage.advance(owned.size(), "");
      }
      stage.end();
    } catch (RuntimeException failure) {
      close();
      throw failure;
    }
  }

  /** What goes into a layer of the dense model. */
  InputMoments inputs(Linear linear) {
    return moments.get(linear.name());
  }

  /** The dense weight of a layer, F32 {@code [out, in]}. */
  Tensor dense(Linear linear) {
    return dense.get(linear.name());
  }

  /** The relative error of one layer as it is now; 0 where it is as it was. */
  double of(Linear linear) {
    try (Arena scratch = Arena.ofConfined()) {
      Tensor delta = linear.weight(scratch);
      Tensor was = dense.get(linear.name());
      for (long i = 0; i < delta.elements(); i++) {
        delta.setFloat(i, was.getFloat(i) - delta.getFloat(i));
      }
      double error = Arrays.stream(moments.get(linear.name()).squaredErrors(delta)).sum();
      return error == 0 ? 0 : error / squares.get(linear.name());
    }
  }

  /** The relative error of every linear layer of the model, by its name. */
  SequencedMap<String, Double> of(BertModel pruned) {
    SequencedMap<String, Double> errors = new LinkedHashMap<>();
    pruned.linears().forEach(linear -> errors.put(linear.name(), of(linear)));
    return errors;
  }

  @Override
  public void close() {
    owned.forEach(InputMoments::close);
    owned.clear();
    if (arena.scope().isAlive()) {
      arena.close();
    }
  }
}
