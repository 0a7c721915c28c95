package dev.halve.recipe;

import dev.halve.core.Tensor;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertModel;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.EncoderHead;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.PretrainedModel;
import dev.halve.qa.Tokenizer;
import dev.halve.qa.Tokens;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.Comparator;
import java.util.List;
import java.util.function.Function;
import java.util.stream.IntStream;

/**
 * An encoder on a device with its tokenizer and a head, compiled once and held open: what the tasks
 * on texts share. For one thread at a time.
 */
final class TextEncoder<H extends EncoderHead> implements AutoCloseable {
  /** A batch is bounded by both, so that its memory is. */
  private static final int MOST_ROWS = 32;

  private static final int MOST_TOKENS = 4096;

  private final PretrainedModel origin;
  private final Tokenizer tokenizer;
  private final Device device;
  private final BertModel model;
  private final H head;
  private final CompiledModel compiled;

  private TextEncoder(
      PretrainedModel origin,
      Tokenizer tokenizer,
      Device device,
      BertModel model,
      H head,
      CompiledModel compiled) {
    this.origin = origin;
    this.tokenizer = tokenizer;
    this.device = device;
    this.model = model;
    this.head = head;
    this.compiled = compiled;
  }

  /** One text or pair as the model takes it. */
  record Row(int[] tokenIds, int[] typeIds) {}

  /**
   * @param head of the model's files
   * @throws dev.halve.core.HalveException if the model, its tokenizer or the head cannot be read
   */
  static <H extends EncoderHead> TextEncoder<H> open(
      String model, String deviceName, Function<PretrainedModel, H> head, Progress progress) {
    Opened opened = new Opened();
    try {
      PretrainedModel origin = opened.add(StoredModel.open(model, progress));
      H found = head.apply(origin);
      Tokenizer tokenizer = opened.add(LoadedModel.tokenizer(origin));
      Device device = opened.add(Devices.open(deviceName));
      BertModel encoder = opened.add(origin.encoder(device));
      int tokens = Math.max(MOST_TOKENS, origin.config().maxPositionEmbeddings());
      return new TextEncoder<>(
          origin,
          tokenizer,
          device,
          encoder,
          found,
          opened.add(device.compile(encoder, null, tokens, MOST_ROWS)));
    } catch (RuntimeException failure) {
      opened.close();
      throw failure;
    }
  }

  H head() {
    return head;
  }

  Tokenizer tokenizer() {
    return tokenizer;
  }

  BertConfig config() {
    return origin.config();
  }

  PretrainedModel origin() {
    return origin;
  }

  /** A text, cut off at so many tokens with the special ones. */
  Row row(Tokens text, int maxLength) {
    int[] ids = tokenizer.single().around(text.ids(), maxLength);
    return new Row(ids, new int[ids.length]);
  }

  /** A pair; where it is too long, the longer text loses its last tokens first. */
  Row row(Tokens first, Tokens second, int maxLength) {
    var pair = tokenizer.pair();
    int room = Math.max(0, maxLength - pair.count());
    int kept = first.count();
    int keptSecond = second.count();
    while (kept + keptSecond > room) {
      if (kept > keptSecond) {
        kept--;
      } else {
        keptSecond--;
      }
    }
    int[] start = joined(pair.before(), head(first.ids(), kept), pair.between());
    int[] ids = joined(start, head(second.ids(), keptSecond), pair.after());
    int[] types = new int[ids.length];
    Arrays.fill(types, start.length, types.length, pair.secondType());
    return new Row(ids, types);
  }

  private static int[] head(int[] ids, int count) {
    return Arrays.copyOf(ids, Math.min(ids.length, count));
  }

  private static int[] joined(int[]... parts) {
    return Arrays.stream(parts).flatMapToInt(Arrays::stream).toArray();
  }

  /**
   * What the head makes of each row: one line, or a line a token.
   *
   * @param perToken whether the head gives a line for each token
   */
  float[][][] run(List<Row> rows, boolean perToken) {
    int[] order =
        IntStream.range(0, rows.size())
            .boxed()
            .sorted(Comparator.comparingInt(row -> -rows.get(row).tokenIds.length))
            .mapToInt(Integer::intValue)
            .toArray();
    float[][][] results = new float[rows.size()][][];
    for (int from = 0; from < order.length; ) {
      int to = from;
      int tokens = 0;
      while (to < order.length
          && to - from < MOST_ROWS
          && (to == from || tokens + rows.get(order[to]).tokenIds.length <= compiled.maxTokens())) {
        tokens += rows.get(order[to]).tokenIds.length;
        to++;
      }
      run(rows, Arrays.copyOfRange(order, from, to), perToken, results);
      from = to;
    }
    return results;
  }

  private void run(List<Row> rows, int[] chosen, boolean perToken, float[][][] results) {
    int[][] ids = new int[chosen.length][];
    int[][] types = new int[chosen.length][];
    for (int i = 0; i < chosen.length; i++) {
      ids[i] = rows.get(chosen[i]).tokenIds;
      types[i] = rows.get(chosen[i]).typeIds;
    }
    PackedBatch batch = PackedBatch.of(ids, types);
    Tensor lastHidden = compiled.run(batch);
    float[][] lines = head.apply(lastHidden, batch);
    for (int i = 0; i < chosen.length; i++) {
      results[chosen[i]] =
          perToken
              ? Arrays.copyOfRange(lines, batch.rowOffsets()[i], batch.rowOffsets()[i + 1])
              : new float[][] {lines[i]};
    }
  }

  @Override
  public void close() {
    compiled.close();
    model.close();
    device.close();
    tokenizer.close();
    origin.close();
  }

  /** What is open so far, closed from the last to the first if the rest fails. */
  private static final class Opened {
    private final ArrayDeque<AutoCloseable> resources = new ArrayDeque<>();

    <T extends AutoCloseable> T add(T resource) {
      resources.push(resource);
      return resource;
    }

    void close() {
      for (AutoCloseable each : resources) {
        try {
          each.close();
        } catch (Exception unexpected) {
          throw new IllegalStateException(unexpected);
        }
      }
    }
  }
}
