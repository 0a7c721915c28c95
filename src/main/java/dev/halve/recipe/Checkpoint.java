package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.io.Json;
import dev.halve.core.io.Safetensors;
import dev.halve.core.io.SafetensorsWriter;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Linear;
import dev.halve.engine.Parameter;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import tools.jackson.core.JacksonException;

/**
 * All that a run needs to go on, in one safetensors file that is replaced as a whole: weights
 * (F32), their masks ({@code NAME.mask}), while training the moments ({@code NAME.exp_avg}, {@code
 * NAME.exp_avg_sq}), and in the header the run's own record as JSON.
 */
final class Checkpoint implements AutoCloseable {
  private static final String VERSION = "1";
  private static final String KIND = "halve.checkpoint";
  private static final String RECORD = "halve.record";

  private final Path file;
  private final Safetensors tensors;

  private Checkpoint(Path file, Safetensors tensors) {
    this.file = file;
    this.tensors = tensors;
  }

  /**
   * @param record what else there is to remember, as Jackson writes it
   */
  static void write(Path file, BertForQuestionAnswering model, Object record) {
    List<SafetensorsWriter.Entry> entries = new ArrayList<>();
    for (Parameter parameter : model.parameters()) {
      add(entries, model.device(), parameter.name(), parameter.value());
      if (parameter.gradient() != null) {
        add(entries, model.device(), parameter.name() + ".exp_avg", parameter.firstMoment());
        add(entries, model.device(), parameter.name() + ".exp_avg_sq", parameter.secondMoment());
      }
      if (parameter.mask() != null) {
        add(entries, model.device(), parameter.name() + ".mask", parameter.mask());
      }
    }
    Map<String, String> metadata = new LinkedHashMap<>();
    metadata.put("format", "pt");
    metadata.put(KIND, VERSION);
    metadata.put(RECORD, Json.compact(record));
    SafetensorsWriter.write(file, entries, metadata);
  }

  private static void add(
      List<SafetensorsWriter.Entry> entries, Device device, String name, Tensor tensor) {
    entries.add(
        new SafetensorsWriter.Entry(
            name,
            tensor.dtype(),
            tensor.shape(),
            arena -> {
              Tensor host = Tensor.allocate(arena, tensor.dtype(), tensor.shape().extents());
              device.download(tensor, host);
              return host;
            }));
  }

  static Checkpoint open(Path file) {
    Safetensors tensors = Safetensors.open(file);
    if (!VERSION.equals(tensors.metadata().get(KIND))) {
      tensors.close();
      throw new HalveException(file + ": not a checkpoint that this version can go on from");
    }
    return new Checkpoint(file, tensors);
  }

  <T> T record(Class<T> type) {
    try {
      return Json.MAPPER.readValue(tensors.metadata().get(RECORD), type);
    } catch (JacksonException other) {
      throw new HalveException(
          file + ": its record is not one of this kind of run: " + Json.describe(other), other);
    }
  }

  /** Whether it was written in the middle of a training. */
  boolean hasMoments() {
    return tensors.names().stream().anyMatch(name -> name.endsWith(".exp_avg"));
  }

  /**
   * Puts weights and masks into a model of the same shape, and prepares it for training where the
   * checkpoint has moments.
   */
  void restore(BertForQuestionAnswering model) {
    Device device = model.device();
    for (Linear linear : model.bert().linears()) {
      String mask = linear.name() + ".weight.mask";
      linear.setMask(
          tensors.names().contains(mask)
              ? checked(mask, linear.weight().shape().extents(), DType.U8)
              : null);
    }
    if (hasMoments()) {
      model.prepareTraining();
    }
    for (Parameter parameter : model.parameters()) {
      upload(device, parameter.name(), parameter.value());
      device.round(parameter);
      if (hasMoments()) {
        upload(device, parameter.name() + ".exp_avg", parameter.firstMoment());
        upload(device, parameter.name() + ".exp_avg_sq", parameter.secondMoment());
      }
    }
  }

  private void upload(Device device, String name, Tensor to) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, to.dtype(), to.shape().extents());
      host.copyFrom(checked(name, to.shape().extents(), to.dtype()));
      device.upload(host, to);
    }
  }

  private Tensor checked(String name, long[] extents, DType dtype) {
    Tensor tensor = tensors.tensor(name);
    Shape shape = Shape.of(extents);
    if (tensor.dtype() != dtype || !tensor.shape().equals(shape)) {
      throw new HalveException(
          "%s: tensor '%s' is %s; the model needs %s %s"
              .formatted(file, name, tensor, dtype, shape));
    }
    return tensor;
  }

  @Override
  public void close() {
    tensors.close();
  }
}
