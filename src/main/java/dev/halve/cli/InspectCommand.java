package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.recipe.ModelSummary;
import dev.halve.report.Numbers;
import java.nio.file.Files;
import java.util.Locale;
import picocli.CommandLine.Command;
import picocli.CommandLine.Option;
import picocli.CommandLine.Parameters;

/** {@code halve inspect}. */
@Command(
    name = "inspect",
    header = "Shows what is in a model",
    description =
        "Its modules, the pattern of the zeros in each weight, sizes dense and "
            + "compressed; or the numbers in the corner of one tensor.",
    footer = {
      "  ./halve inspect",
      "  ./halve inspect halve-out/retrained",
      "  ./halve inspect model.safetensors --json",
      "  ./halve inspect halve-out/sparse --tensor bert.encoder.layer.0.attention.self.query"
          + " --corner 8"
    })
final class InspectCommand extends HalveCommand {
  private static final int CORNER = 8;

  @Parameters(
      arity = "0..1",
      paramLabel = "MODEL",
      description =
          "A safetensors or ONNX file, a model folder, hf:NAME, all-MiniLM-L6-v2 or"
              + " bge-small-en-v1.5 (default: what the tutorial left in halve-out/sparse, else"
              + " all-MiniLM-L6-v2).")
  private String model;

  @Option(
      names = "--model",
      paramLabel = "MODEL",
      description = "The same, as the other commands name it.")
  private String namedModel;

  @Option(
      names = "--tensor",
      paramLabel = "NAME",
      description = "Show the numbers of one tensor, with or without .weight.")
  private String tensor;

  @Option(
      names = "--corner",
      paramLabel = "SIZE",
      description = "How many rows and columns of the tensor, from the upper left (default: 8).")
  private Integer corner;

  @Override
  void run(Console console, TerminalProgress progress) {
    if (model != null && namedModel != null) {
      throw new HalveException("two models are named: %s and %s".formatted(model, namedModel));
    }
    if (tensor == null && corner != null) {
      throw new HalveException("--corner needs --tensor NAME");
    }
    if (tensor == null) {
      show(console, ModelSummary.of(model(), progress), progress);
    } else {
      show(console, ModelSummary.corner(model(), tensor, corner == null ? CORNER : corner));
    }
  }

  private String model() {
    String named = model == null ? namedModel : model;
    if (named != null) {
      return named;
    }
    var tutorials = ModelOption.TUTORIAL.resolve("sparse");
    return Files.exists(tutorials.resolve("config.json"))
        ? tutorials.toString()
        : ModelOption.EMBEDDED;
  }

  private void show(Console console, ModelSummary.Summary summary, TerminalProgress progress) {
    progress.hide();
    if (json()) {
      console.json(summary);
      return;
    }
    ModuleTree.lines(summary.tensors()).forEach(console::print);
    long semiStructured =
        summary.tensors().stream().filter(ModelSummary.Entry::semiStructured).count();
    long matrices = summary.tensors().stream().filter(each -> !each.pattern().isEmpty()).count();
    console.print("");
    console.printf(
        "%s: %,d parameters, %s dense, %s with every 2:4 weight compressed",
        summary.model(),
        summary.parameters(),
        Numbers.bytes(summary.denseBytes()),
        Numbers.bytes(summary.compressedBytes()));
    console.printf("%d of %d matrices are 2:4", semiStructured, matrices);
  }

  private void show(Console console, ModelSummary.Corner corner) {
    if (json()) {
      console.json(corner);
      return;
    }
    console.printf("%s %s %s %s", corner.name(), corner.dtype(), corner.shape(), corner.pattern());
    for (float[] row : corner.values()) {
      console.print(line(row));
    }
  }

  /** Groups of four stand apart; a zero is a bare 0, so that the eye finds it. */
  private static String line(float[] row) {
    StringBuilder line = new StringBuilder();
    for (int column = 0; column < row.length; column++) {
      if (column > 0 && column % 4 == 0) {
        line.append(" |");
      }
      line.append(
          row[column] == 0
              ? String.format("%10s", "0")
              : String.format(Locale.ROOT, "%10.5f", row[column]));
    }
    return line.toString();
  }
}
