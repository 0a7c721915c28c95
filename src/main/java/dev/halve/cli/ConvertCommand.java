package dev.halve.cli;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.recipe.Steps;
import dev.halve.report.Numbers;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.stream.Collectors;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Option;

/** {@code halve convert}. */
@Command(
    name = "convert",
    header = "Brings a model into another form",
    description = {
      "From whatever form the model has: dense, compressed in any of the layouts below, ONNX."
          + " Every weight keeps every bit, unless --dtype asks for another type.",
      "  2:4                NAME.values and NAME.metadata, which Halve runs",
      "  dense              with zeros, as transformers loads it",
      "  sparse-24-bitmask  the layout of compressed-tensors",
      "  cutlass            the layout of PyTorch's SparseSemiStructuredTensorCUTLASS",
      "  onnx               a graph of dense weights for ONNX Runtime"
    },
    footer = {
      "  ./halve convert --model retrained --to 2:4 --out sparse",
      "  ./halve convert --model sparse --to dense --out dense-again",
      "  ./halve convert --model sparse --to cutlass --dtype float16 --out for-pytorch",
      "  ./halve convert --model retrained --to onnx --out for-onnxruntime"
    })
final class ConvertCommand extends HalveCommand {
  @Mixin private ModelOption model;

  @Option(
      names = "--to",
      required = true,
      paramLabel = "FORM",
      description = "2:4, dense, sparse-24-bitmask, cutlass or onnx.")
  private String form;

  @Option(
      names = "--dtype",
      paramLabel = "TYPE",
      description = "float32, float16 or bfloat16 (default: as stored).")
  private String dtype;

  @Option(
      names = "--out",
      required = true,
      paramLabel = "FOLDER",
      description = "Where the converted model goes.")
  private Path out;

  @Override
  void run(Console console, TerminalProgress progress) {
    Steps.Form to =
        Arrays.stream(Steps.Form.values())
            .filter(each -> each.label().equals(form))
            .findFirst()
            .orElseThrow(() ->
                new HalveException(
                    "--to must be one of %s, found '%s'"
                        .formatted(
                            Arrays.stream(Steps.Form.values())
                                .map(Steps.Form::label)
                                .collect(Collectors.joining(", ")),
                            form)));
    Steps.Converted converted =
        Steps.convert(model.orTutorials("retrained"), to, type(), out, progress);
    if (json()) {
      console.json(converted);
      return;
    }
    console.printf(
        "%s: %s, from %s",
        converted.folder(),
        Numbers.bytes(converted.toBytes()),
        Numbers.bytes(converted.fromBytes()));
    if (converted.compressed() == 0
        && converted.leftDense().stream().noneMatch(name -> name.contains(": "))
        && !converted.leftDense().isEmpty()) {
      console.print("left dense, all of it: no weight is 2:4; prune the model first (halve prune)");
      return;
    }
    for (String name : converted.leftDense()) {
      console.print(
          name.contains(": ") ? "left dense: " + name : "left dense, it is not 2:4: " + name);
    }
  }

  private DType type() {
    return switch (dtype) {
      case null -> null;
      case "float32" -> DType.F32;
      case "float16" -> DType.F16;
      case "bfloat16" -> DType.BF16;
      default ->
          throw new HalveException(
              "--dtype must be float32, float16 or bfloat16, found '" + dtype + "'");
    };
  }
}
