package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparsify.InputMoments;
import dev.halve.core.sparsify.InputNorms;
import dev.halve.engine.BertModel;
import dev.halve.engine.LayerwisePass;
import dev.halve.engine.PackedBatch;
import dev.halve.qa.CalibrationText;
import dev.halve.qa.Tokenizer;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** The text that activations come from, as the model sees it. */
final class Calibration {
  /** Tokens of a batch, where nothing else is asked for. */
  private static final int BATCH_TOKENS = 4096;

  private Calibration() {}

  /**
   * The sampled rows, in batches.
   *
   * @throws HalveException if the text cannot be read, or its rows are too long for the model
   */
  static List<PackedBatch> batches(
      Tokenizer tokenizer, BertModel model, CalibrationSettings settings) {
    return batches(tokenizer, model, settings, BATCH_TOKENS);
  }

  /** The same in batches of at most so many tokens, but for a row that is longer. */
  static List<PackedBatch> batches(
      Tokenizer tokenizer, BertModel model, CalibrationSettings settings, int batchTokens) {
    int positions = model.config().maxPositionEmbeddings();
    if (settings.length() > positions) {
      throw new HalveException(
          "calibration rows of %d tokens are longer than the model's %d positions; lower the calibration length to %d"
              .formatted(settings.length(), positions, positions));
    }
    List<CalibrationText.Row> rows =
        CalibrationText.read(
            tokenizer, settings.file(), settings.rows(), settings.length(), settings.seed());
    List<PackedBatch> batches = new ArrayList<>();
    int from = 0;
    while (from < rows.size()) {
      int to = from + 1;
      int tokens = rows.get(from).inputIds().length;
      while (to < rows.size() && tokens + rows.get(to).inputIds().length <= batchTokens) {
        tokens += rows.get(to).inputIds().length;
        to++;
      }
      List<CalibrationText.Row> batch = rows.subList(from, to);
      batches.add(
          PackedBatch.of(
              batch.stream().map(CalibrationText.Row::inputIds).toArray(int[][]::new),
              batch.stream().map(CalibrationText.Row::tokenTypeIds).toArray(int[][]::new)));
      from = to;
    }
    return batches;
  }

  /**
   * The norms of every linear layer's inputs, F32 {@code [in]} by the layer's name, of the model as
   * it is.
   */
  static Map<String, Tensor> norms(Arena arena, BertModel model, List<PackedBatch> batches) {
    Map<String, Tensor> norms = new HashMap<>();
    try (LayerwisePass pass = new LayerwisePass(model, batches)) {
      for (var stop = pass.next(); stop != null; stop = pass.next()) {
        Tensor read = norms(pass, stop).norms(arena);
        stop.readers().forEach(linear -> norms.put(linear.name(), read));
      }
    }
    return norms;
  }

  /** The norms of what is read at a stop. */
  static InputNorms norms(LayerwisePass pass, LayerwisePass.Stop stop) {
    InputNorms norms = new InputNorms(stop.readers().getFirst().in());
    pass.eachInput(norms::add);
    return norms;
  }

  /** The moments of what is read at a stop, to be closed by the caller. */
  static InputMoments moments(LayerwisePass pass, LayerwisePass.Stop stop) {
    InputMoments moments = new InputMoments(stop.readers().getFirst().in());
    try (Arena scratch = Arena.ofConfined()) {
      moments.add(pass.inputProducts(scratch), pass.tokens());
      return moments;
    } catch (RuntimeException failure) {
      moments.close();
      throw failure;
    }
  }
}
