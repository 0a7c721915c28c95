package dev.halve.recipe;

import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import dev.halve.core.HalveException;
import dev.halve.engine.PackedBatch;
import java.io.IOException;
import java.io.InputStream;
import java.nio.FloatBuffer;
import java.nio.LongBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.Locale;
import java.util.Map;

/**
 * ONNX Runtime on the model's own dense graph: all graph optimisations, as many threads as there
 * are processors, rows padded to the longest as it needs. It keeps off the processors between its
 * runs, so that what runs in turn with it is not slowed down.
 */
final class OnnxRuntimePeer implements AutoCloseable {
  private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
  private final OrtSession session;

  private OnnxRuntimePeer(byte[] graph) throws OrtException {
    try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
      options.setOptimizationLevel(OrtSession.SessionOptions.OptLevel.ALL_OPT);
      options.setIntraOpNumThreads(Runtime.getRuntime().availableProcessors());
      options.setInterOpNumThreads(1);
      options.addConfigEntry("session.force_spinning_stop", "1");
      session = environment.createSession(graph, options);
    }
  }

  /**
   * @param model a built-in model's name, or a folder with {@code model.onnx} in it
   */
  static OnnxRuntimePeer open(String model) {
    Path file = Path.of(model, "model.onnx");
    try (InputStream resource =
        OnnxRuntimePeer.class.getResourceAsStream("/" + model.toLowerCase(Locale.ROOT) + ".onnx")) {
      if (resource == null && !Files.exists(file)) {
        throw new HalveException(
            "%s has no ONNX graph for the peer to run; name a built-in model or a folder with"
                    .formatted(model)
                + " model.onnx in it");
      }
      return new OnnxRuntimePeer(
          resource == null ? Files.readAllBytes(file) : resource.readAllBytes());
    } catch (IOException unreadable) {
      throw HalveException.of("read", file, unreadable);
    } catch (OrtException refused) {
      throw new HalveException(
          "ONNX Runtime cannot run the graph of " + model + ": " + refused.getMessage(), refused);
    }
  }

  /** A batch as ONNX Runtime takes it; made once, so that padding costs the timed runs nothing. */
  Inputs prepare(PackedBatch batch) {
    int rows = batch.rows();
    int longest = batch.longestRow();
    long[] ids = new long[rows * longest];
    long[] mask = new long[ids.length];
    long[] types = new long[ids.length];
    for (int row = 0; row < rows; row++) {
      for (int token = 0; token < batch.rowLength(row); token++) {
        int from = batch.rowOffsets()[row] + token;
        int to = row * longest + token;
        ids[to] = batch.tokenIds()[from];
        types[to] = batch.typeIds()[from];
        mask[to] = 1;
      }
    }
    long[] shape = {rows, longest};
    Map<String, OnnxTensor> tensors = new LinkedHashMap<>();
    try {
      for (String name : session.getInputNames()) {
        long[] values =
            switch (name) {
              case "input_ids" -> ids;
              case "attention_mask" -> mask;
              case "token_type_ids" -> types;
              default -> throw new HalveException("the graph wants an input '" + name + "'");
            };
        tensors.put(name, OnnxTensor.createTensor(environment, LongBuffer.wrap(values), shape));
      }
      return new Inputs(batch, tensors);
    } catch (OrtException failure) {
      throw failed(failure);
    }
  }

  /** One forward pass to its end; its outputs are dropped. */
  void run(Inputs inputs) {
    try (OrtSession.Result result = session.run(inputs.tensors)) {
      if (result.size() == 0) {
        throw new IllegalStateException("ONNX Runtime gave no output");
      }
    } catch (OrtException failure) {
      throw failed(failure);
    }
  }

  /** The last hidden states without the padding, {@code [tokens, hidden]}. */
  float[] lastHidden(Inputs inputs) {
    try (OrtSession.Result result = session.run(inputs.tensors)) {
      OnnxTensor output = (OnnxTensor) result.get(0);
      int hidden = (int) output.getInfo().getShape()[2];
      int longest = inputs.batch.longestRow();
      FloatBuffer padded = output.getFloatBuffer();
      float[] packed = new float[inputs.batch.tokens() * hidden];
      for (int row = 0; row < inputs.batch.rows(); row++) {
        padded.get(
            row * longest * hidden,
            packed,
            inputs.batch.rowOffsets()[row] * hidden,
            inputs.batch.rowLength(row) * hidden);
      }
      return packed;
    } catch (OrtException failure) {
      throw failed(failure);
    }
  }

  private static IllegalStateException failed(OrtException failure) {
    return new IllegalStateException("ONNX Runtime: " + failure.getMessage(), failure);
  }

  /** A padded batch in ONNX Runtime's memory. */
  record Inputs(PackedBatch batch, Map<String, OnnxTensor> tensors) implements AutoCloseable {
    @Override
    public void close() {
      tensors.values().forEach(OnnxTensor::close);
    }
  }

  @Override
  public void close() {
    try {
      session.close();
    } catch (OrtException failure) {
      throw failed(failure);
    }
  }
}
