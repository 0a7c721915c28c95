package dev.halve.cli;

import dev.halve.recipe.Quickstart;
import dev.halve.report.Numbers;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve quickstart}. */
@Command(
    name = "quickstart",
    header = "Times one linear layer, dense against 2:4",
    description =
        "The first example of PyTorch's tutorial: a weight with the fixed pattern 0, 0, "
            + "1, 1; the outputs must be equal within 1e-3 before anything is timed.",
    footer = {
      "  ./halve quickstart",
      "  ./halve quickstart --device cuda:0",
      "  ./halve quickstart --tokens 128 --in 768 --out 3072 --json"
    })
final class QuickstartCommand extends HalveCommand {
  @Mixin private DeviceOption device;

  @Option(
      names = "--tokens",
      paramLabel = "N",
      description = "Rows of the input (default: 3072, as the tutorial).")
  private Integer tokens;

  @Option(names = "--in", paramLabel = "N", description = "Input features (default: 10240).")
  private Integer in;

  @Option(names = "--out", paramLabel = "N", description = "Output features (default: 3072).")
  private Integer out;

  @Option(
      names = "--repeats",
      paramLabel = "N",
      description = "Timed samples of each kind, in turn (default: 7).")
  private Integer repeats;

  @Override
  void run(Console console, TerminalProgress progress) {
    Quickstart.Layer base = Quickstart.Layer.TUTORIAL;
    Quickstart.Result result =
        Quickstart.run(
            device.name(),
            new Quickstart.Layer(
                tokens == null ? base.tokens() : tokens,
                in == null ? base.in() : in,
                out == null ? base.out() : out,
                repeats == null ? base.repeats() : repeats),
            progress);
    progress.hide();
    if (json()) {
      console.json(result);
      return;
    }
    console.printf(
        "Linear, %d inputs, %d outputs, %d tokens, %s on %s; weight pattern 0, 0, 1, 1",
        result.in(), result.out(), result.tokens(), result.dtype(), result.device());
    console.printf(
        "outputs equal within %s (largest difference %.1e)",
        result.tolerance(), result.maxDifference());
    console.print("");
    console.printf(
        "%-8s %12s %25s %12s %12s", "weights", "median", "p10 to p90", "GFLOP/s", "memory");
    print(console, "dense", result.dense(), result.denseBytes());
    print(console, "2:4", result.sparse(), result.sparseBytes());
    console.print("");
    console.printf("2:4 is %.2f times as fast as dense", result.speedup());
  }

  private static void print(Console console, String weights, Quickstart.Timing timing, long bytes) {
    console.printf(
        "%-8s %9.3f ms %12.3f - %7.3f ms %12.1f %12s",
        weights,
        timing.msP50(),
        timing.msP10(),
        timing.msP90(),
        timing.gflops(),
        Numbers.bytes(bytes));
  }
}
