package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.Parameter;
import dev.halve.engine.PretrainedModel;
import dev.halve.qa.QaFeature;
import dev.halve.qa.QaFeatures;
import dev.halve.qa.SquadDataset;
import dev.halve.qa.Tokenizer;
import java.io.BufferedInputStream;
import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.BitSet;
import java.util.List;

/**
 * A pretrained model's logits and answers on the first GPU against the CPU's in fp32, dense and
 * 2:4, for hosts that have neither the model nor a tokenizer: {@code prepare MODEL DATA FILE} packs
 * the model's weights in fp16 and the rows of a SQuAD file, {@code check FILE} compares there.
 * Words that the rows do not use are left out. A model without a question-answering head gets a
 * random one, whose answers lie closer together than a trained one's.
 */
final class CudaAnswers {
  private static final int MAX_LENGTH = 384;
  private static final int DOC_STRIDE = 128;
  private static final int ROWS = 32;
  private static final int LONGEST_ANSWER = 30;

  private CudaAnswers() {}

  public static void main(String[] arguments) throws IOException {
    switch (arguments[0]) {
      case "prepare" -> prepare(arguments[1], Path.of(arguments[2]), Path.of(arguments[3]));
      case "check" -> check(Path.of(arguments[1]));
      default -> throw new IllegalArgumentException(arguments[0]);
    }
  }

  private static void prepare(String name, Path data, Path file) throws IOException {
    try (Device cpu = Devices.open("cpu");
        PretrainedModel stored = PretrainedModel.open(name);
        BertForQuestionAnswering model =
            stored.questionAnswering(cpu, 1, note -> System.err.println(note));
        Tokenizer tokenizer =
            Tokenizer.ofJson(name, stored.tokenizerFiles().get("tokenizer.json"));
        DataOutputStream out =
            new DataOutputStream(new BufferedOutputStream(Files.newOutputStream(file)))) {
      List<QaFeature> rows =
          QaFeatures.of(tokenizer, SquadDataset.read(data).examples(), MAX_LENGTH, DOC_STRIDE)
              .features();
      BertConfig c = stored.config();
      for (int extent :
          new int[] {
            c.vocabSize(),
            c.hiddenSize(),
            c.numHiddenLayers(),
            c.numAttentionHeads(),
            c.intermediateSize(),
            c.maxPositionEmbeddings(),
            c.typeVocabSize()
          }) {
        out.writeInt(extent);
      }
      out.writeFloat(c.layerNormEps());
      BitSet used = new BitSet();
      out.writeInt(rows.size());
      for (QaFeature row : rows) {
        out.writeShort(row.length());
        out.writeShort(row.contextFrom());
        out.writeShort(row.contextFrom() + row.windowTokens());
        for (int id : row.inputIds()) {
          out.writeShort(id);
          used.set(id);
        }
      }
      for (Parameter parameter : model.parameters()) {
        boolean words = parameter.name().endsWith("word_embeddings.weight");
        for (long i = 0; i < parameter.value().elements(); i++) {
          if (!words || used.get((int) (i / c.hiddenSize()))) {
            out.writeShort(Float.floatToFloat16(parameter.value().getFloat(i)));
          }
        }
      }
    }
  }

  /** A row and the context in it. */
  private record Row(int[] ids, int[] types, int contextFrom, int contextTo) {}

  private static void check(Path file) throws IOException {
    try (DataInputStream in =
            new DataInputStream(new BufferedInputStream(Files.newInputStream(file)));
        Device gpu = new CudaProvider().open(0);
        Device cpu = Devices.open("cpu")) {
      int[] e = new int[7];
      for (int i = 0; i < e.length; i++) {
        e[i] = in.readInt();
      }
      BertConfig config =
          new BertConfig(e[0], e[1], e[2], e[3], e[4], e[5], e[6], in.readFloat(), 0, 0);
      List<Row> rows = new ArrayList<>();
      BitSet used = new BitSet();
      for (int left = in.readInt(); left > 0; left--) {
        rows.add(row(in, used));
      }
      try (BertForQuestionAnswering onGpu = PretrainedModel.random(gpu, config, 1);
          BertForQuestionAnswering onCpu = PretrainedModel.random(cpu, config, 1)) {
        fill(in, used, config, gpu, onGpu, cpu, onCpu);
        compare("dense", rows, onGpu, onCpu);
        for (BertForQuestionAnswering model : List.of(onGpu, onCpu)) {
          WeightNormSparsifier sparsifier =
              new WeightNormSparsifier(WeightNormSparsifier.Config.SEMI_STRUCTURED);
          sparsifier.prepare(model.bert().linears());
          sparsifier.step();
          sparsifier.squashMask();
          model.toSparseSemiStructured();
        }
        compare("2:4", rows, onGpu, onCpu);
      }
    }
  }

  private static Row row(DataInputStream in, BitSet used) throws IOException {
    int[] ids = new int[in.readUnsignedShort()];
    int[] types = new int[ids.length];
    int from = in.readUnsignedShort();
    int to = in.readUnsignedShort();
    for (int i = 0; i < ids.length; i++) {
      ids[i] = in.readUnsignedShort();
      types[i] = i >= from ? 1 : 0;
      used.set(ids[i]);
    }
    return new Row(ids, types, from, to);
  }

  private static void fill(
      DataInputStream in,
      BitSet used,
      BertConfig config,
      Device gpu,
      BertForQuestionAnswering onGpu,
      Device cpu,
      BertForQuestionAnswering onCpu)
      throws IOException {
    for (int p = 0; p < onGpu.parameters().size(); p++) {
      Parameter parameter = onGpu.parameters().get(p);
      boolean words = parameter.name().endsWith("word_embeddings.weight");
      try (Arena arena = Arena.ofConfined()) {
        Tensor host = Tensor.allocate(arena, DType.F32, parameter.value().shape().extents());
        for (long i = 0; i < host.elements(); i++) {
          if (!words || used.get((int) (i / config.hiddenSize()))) {
            host.setFloat(i, Float.float16ToFloat(in.readShort()));
          }
        }
        gpu.upload(host, parameter.value());
        gpu.round(parameter);
        Parameter twin = onCpu.parameters().get(p);
        cpu.upload(host, twin.value());
        cpu.round(twin);
      }
    }
  }

  private static void compare(
      String weights,
      List<Row> rows,
      BertForQuestionAnswering onGpu,
      BertForQuestionAnswering onCpu) {
    double largest = 0;
    double squares = 0;
    double differences = 0;
    long count = 0;
    int same = 0;
    try (CompiledModel gpu = onGpu.compile(ROWS * MAX_LENGTH, ROWS);
        CompiledModel cpu = onCpu.compile(ROWS * MAX_LENGTH, ROWS)) {
      for (int from = 0; from < rows.size(); from += ROWS) {
        List<Row> some = rows.subList(from, Math.min(rows.size(), from + ROWS));
        PackedBatch batch =
            PackedBatch.of(
                some.stream().map(Row::ids).toArray(int[][]::new),
                some.stream().map(Row::types).toArray(int[][]::new));
        float[] found = gpu.run(batch).toFloatArray();
        float[] expected = cpu.run(batch).toFloatArray();
        for (int i = 0; i < expected.length; i++) {
          double difference = Math.abs((double) found[i] - expected[i]);
          largest = Double.isNaN(difference) ? Double.NaN : Math.max(largest, difference);
          differences += difference * difference;
          squares += (double) expected[i] * expected[i];
        }
        count += expected.length;
        for (int row = 0; row < some.size(); row++) {
          int at = batch.rowOffsets()[row];
          same += answer(found, at, some.get(row)) == answer(expected, at, some.get(row)) ? 1 : 0;
        }
      }
    }
    System.out.printf(
        "{\"answers\": \"%s\", \"rows\": %d, \"same\": %d, \"same_share\": %.4f,"
            + " \"largest_logit_difference\": %.5f, \"difference_rms\": %.5f, \"logits_rms\":"
            + " %.4f}%n",
        weights,
        rows.size(),
        same,
        same / (double) rows.size(),
        largest,
        Math.sqrt(differences / count),
        Math.sqrt(squares / count));
  }

  /** The likeliest span within the context, as one number. */
  private static int answer(float[] logits, int rowAt, Row row) {
    float best = Float.NEGATIVE_INFINITY;
    int answer = -1;
    for (int start = row.contextFrom; start < row.contextTo; start++) {
      int last = Math.min(row.contextTo, start + LONGEST_ANSWER);
      for (int end = start; end < last; end++) {
        float score = logits[2 * (rowAt + start)] + logits[2 * (rowAt + end) + 1];
        if (score > best) {
          best = score;
          answer = start * MAX_LENGTH + end;
        }
      }
    }
    return answer;
  }
}
