package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.recipe.Steps;
import java.nio.file.Path;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve convert}. */
@Command(
    name = "convert",
    header = "Compresses a pruned model, or decompresses a compressed one",
    description =
        "Compressed weights are stored as NAME.values and NAME.metadata. Both ways are "
            + "exact, bit for bit.",
    footer = {
      "  ./halve convert --model retrained --to 2:4 --out sparse",
      "  ./halve convert --model sparse --to dense --out dense-again"
    })
final class ConvertCommand extends HalveCommand {
  @Mixin private ModelOption model;

  @Option(
      names = "--to",
      required = true,
      paramLabel = "2:4|dense",
      description = "The form of the pruned weights in the new folder.")
  private String form;

  @Option(
      names = "--out",
      required = true,
      paramLabel = "FOLDER",
      description = "Where the converted model goes.")
  private Path out;

  @Override
  void run(Console console, TerminalProgress progress) {
    Steps.Form to =
        switch (form) {
          case "2:4" -> Steps.Form.SPARSE_SEMI_STRUCTURED;
          case "dense" -> Steps.Form.DENSE;
          default -> throw new HalveException("--to must be 2:4 or dense, found '" + form + "'");
        };
    Steps.Converted converted = Steps.convert(model.orTutorials("retrained"), to, out, progress);
    if (json()) {
      console.json(converted);
      return;
    }
    console.printf(
        "%s: %s, from %s",
        converted.folder(), Bytes.text(converted.toBytes()), Bytes.text(converted.fromBytes()));
    for (String name : converted.leftDense()) {
      console.print("left dense, it is not 2:4: " + name);
    }
  }
}
