package dev.halve.qa;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatCode;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.text.Normalizer;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import java.util.Random;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;
import tools.jackson.databind.JsonNode;

class TokenizerTest {
  private static final String SMALL =
      "[PAD] [UNK] [CLS] [SEP] [MASK] The the cat ##s Caf ##é ##e caf cafe 中 文 . A ##B a ##b";

  private static Tokenizer tokenizer;
  private static String[] vocabulary;

  @TempDir Path folder;

  @BeforeAll
  static void load() {
    tokenizer = MiniLm.tokenizer();
    vocabulary = new String[tokenizer.vocabularySize()];
    JsonNode tokens = Json.MAPPER.readTree(MiniLm.tokenizerJson()).path("model").path("vocab");
    tokens.propertyNames().forEach(token -> vocabulary[tokens.get(token).intValue()] = token);
  }

  @AfterAll
  static void close() {
    tokenizer.close();
  }

  /** Every expected value was computed by Hugging Face's tokenizers in Python. */
  @Test
  void agreesWithHuggingFaceOnIdsAndOffsets() throws IOException {
    List<String> texts = new ArrayList<>();
    List<JsonNode> expected = new ArrayList<>();
    for (String line :
        Files.readAllLines(Path.of("src/test/resources/dev/halve/qa/tokens.jsonl"))) {
      JsonNode row = Json.MAPPER.readTree(line);
      texts.add(row.get("text").stringValue());
      expected.add(row);
    }
    List<Tokens> all = tokenizer.encodeAll(texts);
    for (int i = 0; i < texts.size(); i++) {
      assertThat(all.get(i).ids()).as(texts.get(i)).isEqualTo(ints(expected.get(i), "ids"));
      assertThat(all.get(i).starts()).as(texts.get(i)).isEqualTo(ints(expected.get(i), "starts"));
      assertThat(all.get(i).ends()).as(texts.get(i)).isEqualTo(ints(expected.get(i), "ends"));
    }
  }

  private static int[] ints(JsonNode row, String name) {
    return Json.MAPPER.convertValue(row.get(name), int[].class);
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "The naïve café of Zoë Ångström",
        "😀 smile 😀 and 👩‍🚀 rocket 𝒳 x",
        "中文 and 東京 met",
        "décomposé e\u0301te\u0301",
        "half \ud800 pair \udc00 and on",
      })
  void offsetsCutTheTokensTextOutOfTheText(String text) {
    Tokens tokens = tokenizer.encode(text);
    assertThat(tokens.count()).isGreaterThan(3);
    for (int i = 0; i < tokens.count(); i++) {
      String token = vocabulary[tokens.ids()[i]].replaceFirst("^##", "");
      if (!token.equals("[UNK]")) {
        assertThat(plain(text.substring(tokens.starts()[i], tokens.ends()[i]))).isEqualTo(token);
      }
    }
  }

  private static String plain(String text) {
    return Normalizer.normalize(text.toLowerCase(Locale.ROOT), Normalizer.Form.NFD)
        .replaceAll("\\p{Mn}", "");
  }

  @Test
  void offsetsAscendAndStayInTheTextWhateverTheText() {
    Random random = new Random(7);
    List<String> texts = new ArrayList<>();
    for (int i = 0; i < 600; i++) {
      StringBuilder text = new StringBuilder();
      for (int length = random.nextInt(40); length > 0; length--) {
        switch (random.nextInt(4)) {
          case 0 -> text.appendCodePoint(random.nextInt(Character.MAX_CODE_POINT + 1));
          case 1 -> text.append((char) random.nextInt(0x10000));
          case 2 -> text.append(' ');
          default -> text.append((char) ('a' + random.nextInt(26)));
        }
      }
      texts.add(text.toString());
    }
    List<Tokens> all = tokenizer.encodeAll(texts);
    assertThat(all).hasSameSizeAs(texts);
    for (int i = 0; i < texts.size(); i++) {
      Tokens tokens = all.get(i);
      // Tokens share an offset where one character decomposes into several, as Hangul does.
      assertThat(tokens.starts()).isSorted();
      assertThat(tokens.ends()).isSorted();
      for (int t = 0; t < tokens.count(); t++) {
        assertThat(tokens.starts()[t]).isBetween(0, tokens.ends()[t] - 1);
        assertThat(tokens.ends()[t]).isLessThanOrEqualTo(texts.get(i).length());
      }
      assertThat(tokens.ids()).isEqualTo(tokenizer.encode(texts.get(i)).ids());
    }
  }

  @Test
  void followsNeitherTruncationNorPaddingOfItsFile() {
    assertThat(tokenizer.encode("word ".repeat(1000)).count()).isEqualTo(1000);
    assertThat(tokenizer.encode("word").count()).isEqualTo(1);
    assertThat(tokenizer.encode("").count()).isZero();
  }

  @Test
  void knowsBertsSpecialTokens() {
    PairTemplate pair = tokenizer.pair();
    assertThat(pair.before()).containsExactly(101);
    assertThat(pair.between()).containsExactly(102);
    assertThat(pair.after()).containsExactly(102);
    assertThat(pair.secondType()).isEqualTo(1);
    assertThat(pair.count()).isEqualTo(3);
    assertThat(tokenizer.vocabularySize()).isEqualTo(30_522);
  }

  @Test
  void aVocabularyFileGivesTheSameTokens() throws IOException {
    Files.write(folder.resolve("vocab.txt"), Arrays.asList(vocabulary));
    try (Tokenizer ofVocabulary = Tokenizer.load(folder)) {
      assertThat(ofVocabulary.vocabularySize()).isEqualTo(30_522);
      assertThat(ofVocabulary.pair()).usingRecursiveComparison().isEqualTo(tokenizer.pair());
      for (String text : List.of("Zoë's CAFÉ, 中文 😀 [SEP] unbelievableness", "Super Bowl 50?")) {
        assertThat(ofVocabulary.encode(text))
            .usingRecursiveComparison()
            .isEqualTo(tokenizer.encode(text));
      }
    }
  }

  /** Expected ids are those of Hugging Face's BertWordPieceTokenizer in Python. */
  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "``|5 7 8 1 6 1 16|9 10 14 15 17 18|13 12 10",
        "{\"do_lower_case\": false}|5 7 8 1 6 1 16|9 10 14 15 17 18|13 12 10",
        "{\"do_lower_case\": true}|6 7 8 1 6 7 8 16|13 14 15 19 20|13 13",
        "{\"do_lower_case\": true, \"strip_accents\": false}|6 7 8 1 6 7 8 16|12 10 14 15 19 20|13"
            + " 12 10",
        "{\"do_lower_case\": false, \"strip_accents\": true, \"tokenize_chinese_chars\": false}|5 7"
            + " 8 1 6 1 16|9 11 1 17 18|13 13",
        "{\"do_lower_case\": true, \"unk_token\": {\"content\": \"[UNK]\"}, \"strip_accents\":"
            + " null}|6 7 8 1 6 7 8 16|13 14 15 19 20|13 13",
      })
  void readsTheSettingsBesideAVocabularyFile(
      String settings, String cats, String mixed, String cafes) throws IOException {
    Files.writeString(folder.resolve("vocab.txt"), SMALL.replace(' ', '\n') + "\n");
    if (!settings.isEmpty()) {
      Files.writeString(folder.resolve("tokenizer_config.json"), settings);
    }
    try (Tokenizer small = Tokenizer.load(folder)) {
      assertThat(ids(small, "The cats, the Cats.")).isEqualTo(cats);
      assertThat(ids(small, "Café 中文 AB")).isEqualTo(mixed);
      assertThat(ids(small, "cafe café")).isEqualTo(cafes);
      assertThat(small.vocabularySize()).isEqualTo(21);
    }
  }

  private static String ids(Tokenizer tokenizer, String text) {
    return Arrays.toString(tokenizer.encode(text).ids()).replaceAll("[\\[\\],]", "");
  }

  @Test
  void fitsAModelOfItsVocabularyOrOneRoundedUp() {
    assertThatCode(() -> tokenizer.requireFit(30_522, "m")).doesNotThrowAnyException();
    assertThatCode(() -> tokenizer.requireFit(30_720, "m")).doesNotThrowAnyException();
    for (int other : new int[] {28_996, 30_521, 31_546, 119_547}) {
      assertThatThrownBy(() -> tokenizer.requireFit(other, "models/cased"))
          .isInstanceOf(HalveException.class)
          .hasMessage(
              "the tokenizer all-MiniLM-L6-v2 has 30,522 tokens, but models/cased has embeddings for %,d; use the tokenizer that came with the model"
                  .formatted(other));
    }
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "{|tokenizer.json: not valid JSON at line 1",
        "[]|it has no \"model\" with a \"vocab\"",
        "{}|it has no \"model\" with a \"vocab\"",
        "{\"model\": 3, \"added_tokens\": \"x\"}|it has no \"model\" with a \"vocab\"",
        "{\"model\": {\"vocab\": {\"a\": 99999999999}}}|it has no \"model\" with a \"vocab\"",
        "{\"model\": {\"type\": \"WordPiece\", \"vocab\": {\"a\": 1}}}|tokenizer.json is no"
            + " tokenizer.json: missing field",
        "{\"model\": {\"type\": \"WordLevel\", \"unk_token\": \"a\", \"vocab\": {\"a\": 0, \"b\":"
            + " 1}}}|puts no special tokens around a pair",
      })
  void namesAFileThatIsNoTokenizer(String json, String message) throws IOException {
    Files.writeString(folder.resolve("tokenizer.json"), json);
    assertThatThrownBy(() -> Tokenizer.load(folder).close())
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith(folder.resolve("tokenizer.json").toString())
        .hasMessageContaining(message)
        .message()
        .hasLineCount(1);
  }

  @Test
  void namesAFolderWithoutATokenizerAndAVocabularyThatIsNone() throws IOException {
    assertThatThrownBy(() -> Tokenizer.load(folder).close())
        .hasMessage(
            folder + " has neither tokenizer.json nor vocab.txt; copy the model's own into it");
    assertThatThrownBy(() -> Tokenizer.load(folder.resolve("none.json")).close())
        .hasMessageContaining("none.json: no such file");
    Files.writeString(folder.resolve("vocab.txt"), "roses\nare\nred\n");
    assertThatThrownBy(() -> Tokenizer.load(folder).close())
        .isInstanceOf(HalveException.class)
        .hasMessage(folder.resolve("vocab.txt") + " is no BERT vocabulary: it lacks [UNK]");
  }

  @Test
  void namesATokenizerThatLacksItsUnknownToken() throws IOException {
    Files.writeString(folder.resolve("vocab.txt"), SMALL.replace(' ', '\n'));
    byte[] json = WordPieceVocabulary.read(folder.resolve("vocab.txt")).toTokenizerJson();
    Path file = folder.resolve("tokenizer.json");
    Files.writeString(
        file,
        new String(json, StandardCharsets.UTF_8)
            .replace("\"unk_token\":\"[UNK]\"", "\"unk_token\":\"?\""));
    assertThatThrownBy(() -> Tokenizer.load(file).close())
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith(file + " cannot tokenize: WordPiece error: Missing [UNK] token");
  }

  @Test
  void refusesWorkWhenClosed() {
    Tokenizer closed = MiniLm.tokenizer();
    closed.close();
    closed.close();
    assertThatThrownBy(() -> closed.encode("x")).isInstanceOf(IllegalStateException.class);
  }

  @Test
  void knowsThePlatformsOfTheLibrary() {
    assertThat(TokenizerLibrary.platform("Linux", "amd64")).isEqualTo("linux-x86_64");
    assertThat(TokenizerLibrary.platform("Linux", "aarch64")).isEqualTo("linux-aarch64");
    assertThat(TokenizerLibrary.platform("Mac OS X", "aarch64")).isEqualTo("osx-aarch64");
    assertThat(TokenizerLibrary.platform("Windows 11", "amd64")).isEqualTo("win-x86_64");
  }
}
