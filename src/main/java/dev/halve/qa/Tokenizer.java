package dev.halve.qa;

import ai.djl.huggingface.tokenizers.jni.CharSpan;
import ai.djl.huggingface.tokenizers.jni.TokenizersLibrary;
import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import tools.jackson.core.JacksonException;
import tools.jackson.core.JsonParser;
import tools.jackson.core.JsonToken;

/**
 * A Hugging Face tokenizer, run by Hugging Face's own library. What a {@code tokenizer.json} says
 * of truncation and padding is not followed: features need whole texts. Owns native memory; may be
 * used by several threads until it is closed.
 */
public final class Tokenizer implements AutoCloseable {
  /** Texts that go to the library together, which tokenizes them in parallel. */
  private static final int BATCH = 256;

  /** The largest in use, of a quarter of a million tokens, have a fifth of this. */
  private static final long MAX_BYTES = 100L << 20;

  /**
   * Models pad their embeddings to a round number of rows, by fewer than this; a tokenizer that is
   * smaller yet belongs to another model.
   */
  private static final int MOST_UNUSED_ROWS = 1024;

  private final String name;
  private final int vocabularySize;
  private PairTemplate pair;
  private SingleTemplate single;
  private final TokenizersLibrary library = TokenizerLibrary.get();

  /** The library's pointer; 0 when closed. */
  private long handle;

  private Tokenizer(String name, byte[] json) {
    this.name = name;
    this.vocabularySize = vocabularySize(name, json);
    try {
      handle = library.createTokenizerFromString(new String(json, StandardCharsets.UTF_8));
    } catch (RuntimeException e) {
      throw new HalveException(name + " is no tokenizer.json: " + e.getMessage(), e);
    }
    try {
      library.disableTruncation(handle);
      library.disablePadding(handle);
      pair = pairTemplate();
      single = singleTemplate();
    } catch (RuntimeException e) {
      close();
      throw e instanceof HalveException ? e : cannotTokenize(e);
    }
  }

  /**
   * The tokenizer of a model folder: its {@code tokenizer.json}, else its {@code vocab.txt} with
   * what {@code tokenizer_config.json} says. The path of either file itself works too.
   *
   * @throws HalveException if there is neither, or the file is none of a tokenizer
   */
  public static Tokenizer load(Path folder) {
    Path file = folder;
    if (Files.isDirectory(folder)) {
      file = folder.resolve("tokenizer.json");
      if (!Files.exists(file)) {
        file = folder.resolve("vocab.txt");
      }
      if (!Files.exists(file)) {
        boolean other =
            Files.exists(folder.resolve("vocab.json"))
                || Files.exists(folder.resolve("sentencepiece.bpe.model"));
        throw new HalveException(
            folder
                + " has neither tokenizer.json nor vocab.txt; "
                + (other
                    ? "transformers' AutoTokenizer writes tokenizer.json from what is there"
                    : "copy the model's own into it"));
      }
    }
    if (file.getFileName().toString().endsWith(".txt")) {
      return new Tokenizer(file.toString(), WordPieceVocabulary.read(file).toTokenizerJson());
    }
    return new Tokenizer(file.toString(), bytes(file));
  }

  /**
   * The tokenizer of a {@code tokenizer.json} in memory.
   *
   * @param name what to call it in messages
   */
  public static Tokenizer ofJson(String name, byte[] json) {
    return new Tokenizer(name, json);
  }

  static byte[] bytes(Path file) {
    try {
      if (Files.size(file) > MAX_BYTES) {
        throw new HalveException(
            "%s is no tokenizer: it has %,d bytes, at most %,d are read"
                .formatted(file, Files.size(file), MAX_BYTES));
      }
      return Files.readAllBytes(file);
    } catch (IOException e) {
      throw HalveException.of("read", file, e);
    }
  }

  /** What the tokenizer was loaded from. */
  public String name() {
    return name;
  }

  /** One more than the largest token id. */
  public int vocabularySize() {
    return vocabularySize;
  }

  /** The special tokens around a pair of texts. */
  public PairTemplate pair() {
    return pair;
  }

  /** Takes pairs as they are without token types, for a model that has none. */
  public void useOneType() {
    pair = new PairTemplate(pair.before(), pair.between(), pair.after(), 0);
  }

  /** The special tokens around a single text. */
  public SingleTemplate single() {
    return single;
  }

  /**
   * Checks that the tokenizer can belong to a model: every token has an embedding, and no more
   * embeddings are without a token than rounding up explains.
   *
   * @param model what to call the model
   * @throws HalveException if not
   */
  public void requireFit(int modelVocabularySize, String model) {
    if (vocabularySize > modelVocabularySize
        || modelVocabularySize - vocabularySize >= MOST_UNUSED_ROWS) {
      throw new HalveException(
          "the tokenizer %s has %,d tokens, but %s has embeddings for %,d; use the tokenizer that came with the model"
              .formatted(name, vocabularySize, model, modelVocabularySize));
    }
  }

  /** The tokens of one text. */
  public Tokens encode(String text) {
    return encodeAll(List.of(text)).getFirst();
  }

  /** The tokens of each text, in order. */
  public List<Tokens> encodeAll(List<String> texts) {
    requireOpen();
    List<Tokens> all = new ArrayList<>(texts.size());
    for (int from = 0; from < texts.size(); from += BATCH) {
      String[] batch =
          texts.subList(from, Math.min(from + BATCH, texts.size())).stream()
              .map(CodePoints::wellFormed)
              .toArray(String[]::new);
      long[] encodings = batchEncode(batch);
      try {
        for (int i = 0; i < batch.length; i++) {
          all.add(tokens(encodings[i], batch[i]));
        }
      } finally {
        Arrays.stream(encodings).forEach(library::deleteEncoding);
      }
    }
    return all;
  }

  private long[] batchEncode(String[] batch) {
    try {
      return library.batchEncode(handle, batch, false);
    } catch (RuntimeException e) {
      throw cannotTokenize(e);
    }
  }

  private HalveException cannotTokenize(RuntimeException e) {
    return new HalveException(name + " cannot tokenize: " + e.getMessage(), e);
  }

  /** The library counts code points; Java counts UTF-16 units. */
  private Tokens tokens(long encoding, String text) {
    CodePoints codePoints = new CodePoints(text);
    CharSpan[] spans = library.getTokenCharSpans(encoding);
    int[] starts = new int[spans.length];
    int[] ends = new int[spans.length];
    for (int i = 0; i < spans.length; i++) {
      starts[i] = codePoints.unit(spans[i].getStart());
      ends[i] = codePoints.unit(spans[i].getEnd());
    }
    return new Tokens(ints(library.getTokenIds(encoding), 0, spans.length), starts, ends);
  }

  private static int[] ints(long[] values, int from, int to) {
    return Arrays.stream(values, from, to).mapToInt(Math::toIntExact).toArray();
  }

  @Override
  public void close() {
    if (handle != 0) {
      library.deleteTokenizer(handle);
      handle = 0;
    }
  }

  private void requireOpen() {
    if (handle == 0) {
      throw new IllegalStateException("the tokenizer " + name + " is closed");
    }
  }

  /**
   * Reads off a pair of texts what the tokenizer puts around it, whatever post-processor it has.
   */
  private PairTemplate pairTemplate() {
    long encoding = library.encodeDual(handle, "a", "b", true);
    try {
      long[] ids = library.getTokenIds(encoding);
      long[] sequences = library.getSequenceIds(encoding);
      int first = indexOf(sequences, 0);
      int firstEnd = first + count(sequences, 0);
      int second = indexOf(sequences, 1);
      int secondEnd = second + count(sequences, 1);
      if (first <= 0 || second <= firstEnd || secondEnd == ids.length) {
        throw new HalveException(
            name + " puts no special tokens around a pair of texts; its \"post_processor\" must");
      }
      return new PairTemplate(
          ints(ids, 0, first),
          ints(ids, firstEnd, second),
          ints(ids, secondEnd, ids.length),
          Math.toIntExact(library.getTypeIds(encoding)[second]));
    } finally {
      library.deleteEncoding(encoding);
    }
  }

  /** The same around one text. */
  private SingleTemplate singleTemplate() {
    long encoding = library.encode(handle, "a", true);
    try {
      long[] ids = library.getTokenIds(encoding);
      long[] special = library.getSpecialTokenMask(encoding);
      int first = indexOf(special, 0);
      int end = first + count(special, 0);
      if (first <= 0 || end == ids.length) {
        throw new HalveException(
            name + " puts no special tokens around a text; its \"post_processor\" must");
      }
      return new SingleTemplate(ints(ids, 0, first), ints(ids, end, ids.length));
    } finally {
      library.deleteEncoding(encoding);
    }
  }

  private static int indexOf(long[] values, long value) {
    for (int i = 0; i < values.length; i++) {
      if (values[i] == value) {
        return i;
      }
    }
    return -1;
  }

  private static int count(long[] values, long value) {
    return (int) Arrays.stream(values).filter(v -> v == value).count();
  }

  private static int vocabularySize(String name, byte[] json) {
    long largest = -1;
    try (JsonParser parser = Json.MAPPER.createParser(json)) {
      if (parser.nextToken() == JsonToken.START_OBJECT) {
        for (String key = parser.nextName(); key != null; key = parser.nextName()) {
          parser.nextToken();
          switch (key) {
            case "model" -> largest = Math.max(largest, largestOfModel(parser));
            case "added_tokens" -> largest = Math.max(largest, largestNumber(parser, "id"));
            default -> parser.skipChildren();
          }
        }
      }
    } catch (JacksonException e) {
      throw new HalveException(name + ": " + Json.describe(e), e);
    }
    if (largest < 0 || largest >= Integer.MAX_VALUE) {
      throw new HalveException(
          name + " is no tokenizer.json: it has no \"model\" with a \"vocab\"");
    }
    return (int) largest + 1;
  }

  private static long largestOfModel(JsonParser parser) {
    long largest = -1;
    if (parser.currentToken() != JsonToken.START_OBJECT) {
      parser.skipChildren();
      return largest;
    }
    for (String key = parser.nextName(); key != null; key = parser.nextName()) {
      JsonToken value = parser.nextToken();
      if (!key.equals("vocab")) {
        parser.skipChildren();
      } else if (value == JsonToken.START_OBJECT) {
        largest = largestNumber(parser, null);
      } else if (value == JsonToken.START_ARRAY) {
        // Unigram models list [token, score] in the order of the ids.
        while (parser.nextToken() != JsonToken.END_ARRAY) {
          parser.skipChildren();
          largest++;
        }
      }
    }
    return largest;
  }

  /** The largest whole number under a key (under any, for null) of the value that starts here. */
  private static long largestNumber(JsonParser parser, String key) {
    long largest = -1;
    int depth = 0;
    do {
      JsonToken token = parser.currentToken();
      depth += token.isStructStart() ? 1 : token.isStructEnd() ? -1 : 0;
      if (token == JsonToken.VALUE_NUMBER_INT
          && (key == null || key.equals(parser.currentName()))) {
        largest = Math.max(largest, parser.getLongValue());
      }
    } while (depth > 0 && parser.nextToken() != null);
    return largest;
  }
}
