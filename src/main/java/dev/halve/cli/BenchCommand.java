package dev.halve.cli;

import dev.halve.recipe.Benchmark;
import dev.halve.recipe.BenchmarkSettings;
import dev.halve.recipe.LatencySettings;
import dev.halve.recipe.TrainingBenchmark;
import dev.halve.report.LatencyRow;
import dev.halve.report.Numbers;
import java.nio.file.Path;
import java.util.List;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve bench}. */
@Command(
    name = "bench",
    header = "Times forward passes: dense and 2:4, eager and compiled, and a peer",
    description =
        "Times the forward pass of a model by batch size, dense and 2:4, eager and compiled, in"
            + " turn with a peer where one is named. What is timed has first given the same"
            + " outputs. Weights of a dense model are pruned by magnitude for the 2:4 side: that"
            + " changes its answers and not its speed.",
    footer = {
      "  ./halve bench",
      "  ./halve bench --device cpu --model bge-small-en-v1.5 --peer onnxruntime --batches 8 --seq"
          + " 128",
      "  ./halve bench --device cuda:0 --model base --random-weights --batches 4,16,64,256 --seq"
          + " 384",
      "  ./halve bench --training --device cuda:0 --model base --random-weights --batches 32 --seq"
          + " 384",
      "  ./halve bench --lengths squad-lengths.txt --batches 16 --modes compiled --json"
    })
final class BenchCommand extends HalveCommand {
  private static final int WARMUP = 15;

  @Mixin private ModelOption model;
  @Mixin private DeviceOption device;

  @Option(
      names = "--random-weights",
      description =
          "Keep the model's shape alone. Then --model may also be base, large (BERT's) or small"
              + " (bge-small's).")
  private boolean randomWeights;

  @Option(
      names = "--training",
      description =
          "Time training steps in place of forward passes: forward, backward and AdamW, with"
              + " dropout.")
  private boolean training;

  @Option(
      names = "--batches",
      paramLabel = "ROWS",
      split = ",",
      defaultValue = "1,8",
      description = "Batch sizes (default: 1,8).")
  private List<Integer> batches;

  @Option(
      names = "--seq",
      paramLabel = "TOKENS",
      defaultValue = "128",
      description = "Tokens of a row (default: 128).")
  private int seq;

  @Option(
      names = "--lengths",
      paramLabel = "FILE",
      description = "The length of a row on each line, used in turn; --seq is then the most.")
  private Path lengths;

  @Option(
      names = "--modes",
      paramLabel = "MODES",
      split = ",",
      defaultValue = "eager,compiled",
      description = "eager, compiled (default: both).")
  private List<String> modes;

  @Option(
      names = "--weights",
      paramLabel = "WEIGHTS",
      split = ",",
      defaultValue = "dense,2:4",
      description = "dense, 2:4 (default: both).")
  private List<String> weights;

  @Option(
      names = "--dense-rows",
      paramLabel = "SHARE",
      defaultValue = "0",
      description =
          "The share of every weight's rows that stay dense on the 2:4 side, in blocks of 16, as"
              + " halve prune --dense-rows leaves them (default: 0).")
  private double denseRows;

  @Option(
      names = "--peer",
      paramLabel = "NAME",
      description = "onnxruntime: run the model's own dense graph there too, on the CPU.")
  private String peer;

  @Option(
      names = "--repeats",
      paramLabel = "N",
      defaultValue = "20",
      description = "Timed passes of each (default: 20).")
  private int repeats;

  @Option(
      names = "--max-seconds",
      paramLabel = "SECONDS",
      defaultValue = "60",
      description =
          "For one batch size; repeats end early, but not before the third (default: 60).")
  private double maxSeconds;

  @Override
  void run(Console console, TerminalProgress progress) {
    BenchmarkSettings settings =
        new BenchmarkSettings(
            model.orElse(ModelOption.EMBEDDED),
            device.name(),
            randomWeights,
            lengths,
            modes,
            weights,
            denseRows,
            peer,
            new LatencySettings(batches, seq, WARMUP, repeats, maxSeconds));
    if (training) {
      if (peer != null) {
        throw misused("--training has no peer; leave --peer out");
      }
      printTraining(TrainingBenchmark.run(settings, progress), console, progress);
      return;
    }
    Benchmark.Result result = Benchmark.run(settings, progress);
    progress.hide();
    if (json()) {
      console.json(result);
      return;
    }
    console.printf(
        "%s, %s, %s on %s, %d processors",
        result.model(), result.output(), result.dtype(), result.device(), result.processors());
    for (Benchmark.Agreement agreement : result.agreements()) {
      console.printf(
          "%s agrees with %s (largest difference %.1e)",
          agreement.of(), agreement.with(), agreement.maxDifference());
    }
    if (result.denseWeightBytes() > 0 && result.sparseWeightBytes() > 0) {
      console.printf(
          "linear weights in memory: %s dense, %s 2:4",
          Numbers.bytes(result.denseWeightBytes()), Numbers.bytes(result.sparseWeightBytes()));
    }
    console.print("");
    console.printf(
        "%6s %8s  %-12s %-7s %-9s %12s %22s %12s",
        "batch", "tokens", "engine", "weights", "mode", "median", "p10 to p90", "tokens/s");
    for (LatencyRow row : result.rows()) {
      console.printf(
          "%6d %8d  %-12s %-7s %-9s %9.3f ms %9.3f - %7.3f ms %12.0f",
          row.batch(),
          row.tokens(),
          row.engine(),
          row.weights(),
          row.mode(),
          row.msP50(),
          row.msP10(),
          row.msP90(),
          row.tokensPerS());
    }
  }

  private void printTraining(
      TrainingBenchmark.Result result, Console console, TerminalProgress progress) {
    progress.hide();
    if (json()) {
      console.json(result);
      return;
    }
    console.printf(
        "%s, training steps, %s on %s, %d processors",
        result.model(), result.dtype(), result.device(), result.processors());
    console.print("");
    console.printf(
        "%6s %8s %6s %12s %22s %12s %12s",
        "batch", "tokens", "steps", "median", "p10 to p90", "rows/s", "tokens/s");
    for (TrainingBenchmark.Row row : result.rows()) {
      console.printf(
          "%6d %8d %6d %9.3f ms %9.3f - %7.3f ms %12.1f %12.0f",
          row.batch(),
          row.tokens(),
          row.steps(),
          row.msP50(),
          row.msP10(),
          row.msP90(),
          row.rowsPerS(),
          row.tokensPerS());
    }
  }
}
