package dev.halve.qa;

import dev.halve.core.HalveException;
import java.io.BufferedReader;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Comparator;
import java.util.List;
import java.util.Random;

/**
 * Rows of tokens for pruning methods that look at activations (Wanda, SparseGPT): a random sample
 * of a SQuAD file's questions with their contexts, or of the passages of a plain text, the same for
 * the same seed. A text is read as a stream, in memory for the sample alone (reservoir sampling,
 * Vitter 1985, algorithm R).
 */
public final class CalibrationText {
  /** More characters than English text has in a token, so that a passage fills its row. */
  private static final int CHARACTERS_PER_TOKEN = 8;

  private CalibrationText() {}

  /**
   * One row for the model, without padding.
   *
   * @param inputIds {@code [tokens]}
   * @param tokenTypeIds {@code [tokens]}
   */
  public record Row(int[] inputIds, int[] tokenTypeIds) {}

  /**
   * Samples rows, in the order of the file.
   *
   * @param file SQuAD v1.1 if it begins with a brace, else text in UTF-8
   * @param rows how many; all there are where the file has fewer
   * @param maxLength tokens a row at the most, special tokens included; the rest is cut off
   * @throws HalveException if the file cannot be read or holds nothing, or rows are too short
   */
  public static List<Row> read(Tokenizer tokenizer, Path file, int rows, int maxLength, long seed) {
    if (rows < 1 || maxLength <= tokenizer.pair().count()) {
      throw new HalveException(
          "%,d calibration rows of %,d tokens are too few or too short".formatted(rows, maxLength));
    }
    Sample<Example> examples = new Sample<>(rows, seed);
    Sample<String> passages = new Sample<>(rows, seed);
    if (isJson(file)) {
      SquadDataset.read(file).examples().forEach(examples::offer);
      return ofQuestions(tokenizer, examples.inOrder(), maxLength);
    }
    offerPassages(file, maxLength * CHARACTERS_PER_TOKEN, passages);
    if (passages.count == 0) {
      throw new HalveException(file + " holds no text to calibrate with");
    }
    return ofPassages(tokenizer, passages.inOrder(), maxLength);
  }

  private static List<Row> ofQuestions(Tokenizer tokenizer, List<Example> examples, int maxLength) {
    List<Row> rows = new ArrayList<>();
    int last = -1;
    for (QaFeature feature : QaFeatures.of(tokenizer, examples, maxLength, 0).features()) {
      if (feature.example() != last) {
        last = feature.example();
        rows.add(new Row(feature.inputIds(), feature.tokenTypeIds()));
      }
    }
    return rows;
  }

  private static List<Row> ofPassages(Tokenizer tokenizer, List<String> passages, int maxLength) {
    return tokenizer.encodeAll(passages).stream()
        .map(tokens -> tokenizer.single().around(tokens.ids(), maxLength))
        .map(ids -> new Row(ids, new int[ids.length]))
        .toList();
  }

  private static boolean isJson(Path file) {
    try (BufferedReader reader = Files.newBufferedReader(file)) {
      int c = reader.read();
      while (c >= 0 && (Character.isWhitespace(c) || c == '\ufeff')) {
        c = reader.read();
      }
      return c == '{';
    } catch (IOException e) {
      throw HalveException.of("read", file, e);
    }
  }

  /** Cuts at the first space after so many characters; a text without spaces at twice as many. */
  private static void offerPassages(Path file, int characters, Sample<String> sample) {
    StringBuilder passage = new StringBuilder();
    try (BufferedReader reader = Files.newBufferedReader(file)) {
      for (int c = reader.read(); c >= 0; c = reader.read()) {
        boolean space = Character.isWhitespace(c);
        if ((space && passage.length() >= characters) || passage.length() >= 2 * characters) {
          sample.offer(passage.toString());
          passage.setLength(0);
        }
        if (!space || !passage.isEmpty()) {
          passage.append(space ? ' ' : (char) c);
        }
      }
    } catch (IOException e) {
      throw HalveException.of("read", file, e);
    }
    if (!passage.toString().isBlank()) {
      sample.offer(passage.toString());
    }
  }

  /** A uniform sample of a stream of unknown length. */
  private static final class Sample<T> {
    private record Offered<T>(long index, T item) {}

    private final List<Offered<T>> kept = new ArrayList<>();
    private final int size;
    private final Random random;
    private long count;

    Sample(int size, long seed) {
      this.size = size;
      this.random = new Random(seed);
    }

    void offer(T item) {
      if (kept.size() < size) {
        kept.add(new Offered<>(count, item));
      } else {
        long place = random.nextLong(count + 1);
        if (place < size) {
          kept.set((int) place, new Offered<>(count, item));
        }
      }
      count++;
    }

    List<T> inOrder() {
      return kept.stream()
          .sorted(Comparator.comparingLong(Offered::index))
          .map(Offered::item)
          .toList();
    }
  }
}
