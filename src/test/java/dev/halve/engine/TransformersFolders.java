package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.io.Json;
import dev.halve.core.io.SparseLayout;
import dev.halve.core.sparsify.WeightNormSparsifier;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Random;

/**
 * Writes small models of every family and head as Halve saves them, beside what Halve computes with
 * them, for {@code benchmarks/transformers_check.py} to hold against transformers and PyTorch.
 */
final class TransformersFolders {
  private static final int[] LENGTHS = {31, 1, 12};

  private TransformersFolders() {}

  /**
   * @param arguments the folder to write to
   */
  public static void main(String[] arguments) {
    Path out = Path.of(arguments[0]);
    for (String type : List.of("bert", "roberta", "xlm-roberta", "distilbert", "electra")) {
      for (String head :
          List.of("question-answering", "text-classification", "token-classification", "none")) {
        write(out.resolve(type + "-" + head), type, head);
      }
    }
  }

  private static void write(Path out, String type, String head) {
    Path trained = out.resolve("trained");
    new FamilyReference(type, head, 20, 128, 256, 4).write(trained);
    Random random = new Random(21);
    int[][] ids = new int[LENGTHS.length][];
    int[][] types = new int[LENGTHS.length][];
    for (int row = 0; row < LENGTHS.length; row++) {
      // No id of a padding token, which RoBERTa's would not count as a position.
      ids[row] = random.ints(LENGTHS[row], 2, FamilyReference.VOCABULARY).toArray();
      boolean typed = type.equals("bert") || type.equals("electra");
      types[row] = random.ints(LENGTHS[row], 0, typed ? 2 : 1).toArray();
    }
    PackedBatch batch = PackedBatch.of(ids, types);
    Map<String, Object> expected = new LinkedHashMap<>();
    List<String> pruned = new ArrayList<>();
    Path dense = out.resolve("dense");
    try (Device device = Devices.open("cpu")) {
      Path source = trained;
      if (head.equals("question-answering")) {
        source = prune(device, trained, dense);
      } else {
        try (PretrainedModel model = PretrainedModel.open(trained.toString())) {
          model.convert(dense, null, null, _ -> {});
        }
      }
      try (PretrainedModel model = PretrainedModel.open(source.toString());
          BertModel encoder = model.encoder(device)) {
        if (head.equals("question-answering")) {
          encoder
              .linears()
              .forEach(linear ->
                  pruned.add(model.config().family().prefix() + "." + linear.name() + ".weight"));
          model.convert(out.resolve("cutlass"), SparseLayout.CUTLASS, DType.F16, _ -> {});
          model.convert(out.resolve("bitmask"), SparseLayout.SPARSE_24_BITMASK, null, _ -> {});
        }
        expected.put("outputs", rows(device, model, encoder, batch, head));
      }
    }
    expected.put("head", head);
    expected.put("input_ids", ids);
    expected.put("token_type_ids", types);
    expected.put("pruned", pruned);
    Json.write(out.resolve("expected.json"), expected);
  }

  private static Path prune(Device device, Path trained, Path dense) {
    try (PretrainedModel origin = PretrainedModel.open(trained.toString());
        BertForQuestionAnswering model = origin.questionAnswering(device, 0, _ -> {})) {
      WeightNormSparsifier sparsifier =
          new WeightNormSparsifier(WeightNormSparsifier.Config.SEMI_STRUCTURED);
      sparsifier.prepare(model.bert().linears());
      sparsifier.step();
      sparsifier.squashMask();
      PretrainedModel.save(model, origin, dense);
      return dense;
    }
  }

  /** For each row a list of lines: one a token, or one alone for a classified row. */
  private static List<float[][]> rows(
      Device device, PretrainedModel model, BertModel encoder, PackedBatch batch, String head) {
    List<float[][]> rows = new ArrayList<>();
    float[][] lines;
    if (head.equals("question-answering")) {
      try (BertForQuestionAnswering answering = model.questionAnswering(device, 0, _ -> {});
          CompiledModel compiled = answering.compile(batch.tokens(), batch.rows())) {
        lines = lines(compiled.run(batch).toFloatArray(), 2);
      }
    } else {
      try (CompiledModel compiled = device.compile(encoder, null, batch.tokens(), batch.rows())) {
        var lastHidden = compiled.run(batch);
        lines =
            switch (head) {
              case "text-classification" ->
                  model.sequenceClassificationHead().apply(lastHidden, batch);
              case "token-classification" ->
                  model.tokenClassificationHead().apply(lastHidden, batch);
              default -> lines(lastHidden.toFloatArray(), model.config().hiddenSize());
            };
      }
    }
    for (int row = 0; row < batch.rows(); row++) {
      boolean one = head.equals("text-classification");
      int from = one ? row : batch.rowOffsets()[row];
      int to = one ? row + 1 : batch.rowOffsets()[row + 1];
      rows.add(Arrays.copyOfRange(lines, from, to));
    }
    return rows;
  }

  private static float[][] lines(float[] values, int width) {
    float[][] lines = new float[values.length / width][];
    for (int line = 0; line < lines.length; line++) {
      lines[line] = Arrays.copyOfRange(values, line * width, (line + 1) * width);
    }
    return lines;
  }
}
