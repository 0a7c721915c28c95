package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.engine.BertConfig;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.PretrainedModel;
import dev.halve.report.LatencyRow;
import java.util.ArrayList;
import java.util.IdentityHashMap;
import java.util.List;
import java.util.Map;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * Forward passes of one model side by side: dense and 2:4, eager and compiled, and a peer, in turn
 * in one process on the same batches. What is timed has first given the same outputs.
 */
public final class Benchmark {
  /** How far outputs may lie apart, in single precision and below. */
  private static final double TOLERANCE = 1e-3;

  private static final double HALF_TOLERANCE = 5e-2;

  private Benchmark() {}

  /**
   * How far two ways of computing the same lay apart on the first batch.
   *
   * @param of what was compared: {@code halve 2:4 compiled}
   * @param with what: {@code halve pruned dense eager}
   * @param maxDifference of two outputs
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Agreement(String of, String with, double maxDifference, double tolerance) {}

  /**
   * What came out.
   *
   * @param output what a pass computes: {@code logits}, or {@code last hidden states} beside a peer
   *     that has no head
   * @param denseWeightBytes the encoder's linear weights in the device's memory; 0 if not asked for
   * @param sparseWeightBytes the same, compressed
   */
  @JsonNaming(SnakeCaseStrategy.class)
  public record Result(
      String model,
      String device,
      String dtype,
      String output,
      int processors,
      long denseWeightBytes,
      long sparseWeightBytes,
      List<Agreement> agreements,
      List<LatencyRow> rows) {}

  /**
   * @throws HalveException for an unknown model or device, a file of lengths that is none, or
   *     outputs that do not agree
   */
  public static Result run(BenchmarkSettings settings, Progress progress) {
    boolean head = settings.peer() == null;
    try (PretrainedModel pretrained =
            shape(settings.model()) == null ? StoredModel.open(settings.model(), progress) : null;
        Device device = Devices.open(settings.device());
        OnnxRuntimePeer peer = head ? null : OnnxRuntimePeer.open(settings.model());
        BenchmarkEncoder dense = encoder("dense", settings, pretrained, device, progress);
        BenchmarkEncoder sparse = encoder("2:4", settings, pretrained, device, progress)) {
      BertConfig config = pretrained == null ? shape(settings.model()) : pretrained.config();
      List<PackedBatch> batches = Latency.batches(config, settings.latency(), settings.lengths());
      List<Agreement> agreements =
          check(batches.getFirst(), settings, device, dense, sparse, peer, progress);
      return new Result(
          settings.model(),
          device.name(),
          device.computeType().name(),
          head ? "logits" : "last hidden states",
          Runtime.getRuntime().availableProcessors(),
          dense == null ? 0 : dense.weightBytes(),
          sparse == null ? 0 : sparse.weightBytes(),
          agreements,
          time(batches, settings, dense, sparse, peer, progress));
    }
  }

  /** A model of the wanted weights, or null where they are not. */
  private static BenchmarkEncoder encoder(
      String weights,
      BenchmarkSettings settings,
      PretrainedModel pretrained,
      Device device,
      Progress progress) {
    if (!settings.weights().contains(weights)) {
      return null;
    }
    boolean head = settings.peer() == null;
    return pretrained == null || settings.randomWeights()
        ? BenchmarkEncoder.random(
            device, pretrained == null ? shape(settings.model()) : pretrained.config(), head)
        : BenchmarkEncoder.load(device, pretrained, head, progress);
  }

  /** Compares outputs, and leaves the sparse model compressed. */
  private static List<Agreement> check(
      PackedBatch batch,
      BenchmarkSettings settings,
      Device device,
      BenchmarkEncoder dense,
      BenchmarkEncoder sparse,
      OnnxRuntimePeer peer,
      Progress progress) {
    Stage stage = Stage.begin(progress, "check", 0, "outputs");
    double tolerance = device.computeType() == DType.F32 ? TOLERANCE : HALF_TOLERANCE;
    boolean compiled = settings.modes().contains("compiled");
    List<Agreement> agreements = new ArrayList<>();
    if (dense != null) {
      float[] eager = dense.eager(batch).toFloatArray();
      if (peer != null) {
        try (OnnxRuntimePeer.Inputs inputs = peer.prepare(batch)) {
          float[] expected = peer.lastHidden(inputs);
          agreements.add(agreement("halve dense eager", eager, "onnxruntime", expected, tolerance));
        }
      }
      if (compiled) {
        float[] found = dense.compiled(batch).toFloatArray();
        agreements.add(
            agreement("halve dense compiled", found, "halve dense eager", eager, tolerance));
      }
    }
    if (sparse != null) {
      sparse.prune(settings.denseRows());
      float[] expected = sparse.eager(batch).toFloatArray();
      sparse.compress();
      String reference = "halve dense with the same zeros";
      float[] eager = sparse.eager(batch).toFloatArray();
      agreements.add(agreement("halve 2:4 eager", eager, reference, expected, tolerance));
      if (compiled) {
        float[] found = sparse.compiled(batch).toFloatArray();
        agreements.add(agreement("halve 2:4 compiled", found, reference, expected, tolerance));
      }
    }
    stage.end();
    return agreements;
  }

  private static Agreement agreement(
      String of, float[] found, String with, float[] expected, double tolerance) {
    double largest = found.length == expected.length ? 0 : Double.NaN;
    for (int i = 0; i < Math.min(found.length, expected.length); i++) {
      double difference = Math.abs((double) found[i] - expected[i]);
      // NaN is neither larger nor smaller, and must not pass.
      largest = difference <= largest ? largest : difference;
    }
    if (!(largest <= tolerance)) {
      throw new HalveException(
          "%s and %s differ by %s, more than %s; nothing was timed"
              .formatted(of, with, largest, tolerance));
    }
    return new Agreement(of, with, largest, tolerance);
  }

  private static List<LatencyRow> time(
      List<PackedBatch> batches,
      BenchmarkSettings settings,
      BenchmarkEncoder dense,
      BenchmarkEncoder sparse,
      OnnxRuntimePeer peer,
      Progress progress) {
    List<Latency.Candidate> candidates = new ArrayList<>();
    for (String mode : settings.modes()) {
      for (String weights : settings.weights()) {
        BenchmarkEncoder encoder = weights.equals("dense") ? dense : sparse;
        candidates.add(
            new Latency.Candidate(
                "halve", weights, mode, mode.equals("eager") ? encoder::eager : encoder::compiled));
      }
    }
    if (peer == null) {
      return Latency.measure(batches, candidates, settings.latency(), progress);
    }
    Map<PackedBatch, OnnxRuntimePeer.Inputs> inputs = new IdentityHashMap<>();
    try {
      batches.forEach(batch -> inputs.put(batch, peer.prepare(batch)));
      candidates.add(
          new Latency.Candidate(
              "onnxruntime", "dense", "compiled", batch -> peer.run(inputs.get(batch))));
      return Latency.measure(batches, candidates, settings.latency(), progress);
    } finally {
      inputs.values().forEach(OnnxRuntimePeer.Inputs::close);
    }
  }

  /** The shape of a name that is no model's, or null. */
  static BertConfig shape(String name) {
    return switch (name) {
      case "base" -> BertConfig.base();
      case "large" -> BertConfig.large();
      case "small" -> BertConfig.small();
      default -> null;
    };
  }
}
