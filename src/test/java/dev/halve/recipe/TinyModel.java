package dev.halve.recipe;

import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.HostCopy;
import dev.halve.engine.Parameter;
import dev.halve.engine.PretrainedModel;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.SequencedMap;
import java.util.TreeMap;

/** A model that trains in milliseconds, and rows for it. */
final class TinyModel {
  static final BertConfig CONFIG = new BertConfig(64, 16, 2, 2, 32, 24, 2, 1e-12f, 0.1f, 0.1f);

  private TinyModel() {}

  static BertForQuestionAnswering random(Device device, float dropout) {
    return PretrainedModel.random(device, CONFIG.withDropout(dropout, dropout), 7);
  }

  /** Rows whose answer is marked by the token 40 before it and spans one or two tokens. */
  static List<TrainingRow> rows(int count) {
    Random random = new Random(3);
    List<TrainingRow> rows = new ArrayList<>();
    for (int i = 0; i < count; i++) {
      int length = 10 + random.nextInt(10);
      int[] tokenIds = new int[length];
      int[] typeIds = new int[length];
      for (int token = 0; token < length; token++) {
        tokenIds[token] = token == 0 ? 1 : 4 + random.nextInt(30);
        typeIds[token] = token < 4 ? 0 : 1;
      }
      int start = 5 + random.nextInt(length - 7);
      tokenIds[start - 1] = 40;
      int end = start + random.nextInt(2);
      tokenIds[end + 1] = 41;
      rows.add(new TrainingRow(tokenIds, typeIds, start, end));
    }
    return rows;
  }

  /** Every parameter's bytes, by name. */
  static SequencedMap<String, byte[]> bytes(BertForQuestionAnswering model) {
    SequencedMap<String, byte[]> bytes = new TreeMap<>();
    for (Parameter parameter : model.parameters()) {
      bytes.put(parameter.name(), HostCopy.bytes(model.device(), parameter.value()));
    }
    return bytes;
  }
}
