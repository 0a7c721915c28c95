package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.offset;

import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.Json;
import dev.halve.engine.FamilyReference;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

/**
 * From texts to classes, spans and vectors, against the formulas in double precision on ids that
 * are known by hand.
 */
class TextTasksTest {
  private static final List<String> WORDS =
      List.of("ada", "lives", "in", "rome", "a", "b", "and", "egon", "oslo", ".");

  /** Of {@code <s> [CLS]}, {@code </s> [SEP]}, and of the first word. */
  private static final int CLS = 2;

  private static final int SEP = 3;
  private static final int FIRST_WORD = 5;

  @TempDir Path folder;

  private static boolean roberta(String type) {
    return type.endsWith("roberta");
  }

  /** Whole words, lower case; around them each family's special tokens. */
  private static void writeTokenizer(String type, Path folder) {
    String open = roberta(type) ? "<s>" : "[CLS]";
    String close = roberta(type) ? "</s>" : "[SEP]";
    List<String> tokens = new ArrayList<>(List.of("[PAD]", "[UNK]", open, close, "[MASK]"));
    tokens.addAll(WORDS);
    while (tokens.size() < FamilyReference.VOCABULARY) {
      tokens.add("##" + tokens.size());
    }
    if (type.equals("distilbert") || type.equals("bert")) {
      AtomicFile.write(folder.resolve("vocab.txt"), String.join("\n", tokens) + "\n");
      return;
    }
    Map<String, Integer> vocabulary = new LinkedHashMap<>();
    tokens.forEach(token -> vocabulary.put(token, vocabulary.size()));
    Map<String, Object> json = new LinkedHashMap<>();
    json.put("version", "1.0");
    json.put("added_tokens", List.of());
    json.put("normalizer", Map.of("type", "Lowercase"));
    json.put("pre_tokenizer", Map.of("type", "Whitespace"));
    json.put(
        "post_processor",
        roberta(type)
            ? Map.of(
                "type",
                "RobertaProcessing",
                "sep",
                List.of(close, SEP),
                "cls",
                List.of(open, CLS),
                "trim_offsets",
                true,
                "add_prefix_space",
                true)
            : Map.of(
                "type", "BertProcessing", "sep", List.of(close, SEP), "cls", List.of(open, CLS)));
    json.put("model", Map.of("type", "WordLevel", "vocab", vocabulary, "unk_token", "[UNK]"));
    Json.write(folder.resolve("tokenizer.json"), json);
  }

  private static int[] ids(String text) {
    return Arrays.stream(text.split(" "))
        .mapToInt(word -> FIRST_WORD + WORDS.indexOf(word))
        .toArray();
  }

  private static int[] single(String text) {
    return joined(new int[] {CLS}, ids(text), new int[] {SEP});
  }

  private static int[] joined(int[]... parts) {
    return Arrays.stream(parts).flatMapToInt(Arrays::stream).toArray();
  }

  private FamilyReference write(String type, String head) {
    writeTokenizer(type, folder);
    return new FamilyReference(type, head, 8).write(folder);
  }

  private static double[] softmax(double[] logits) {
    double sum = Arrays.stream(logits).map(Math::exp).sum();
    return Arrays.stream(logits).map(v -> Math.exp(v) / sum).toArray();
  }

  @ParameterizedTest
  @ValueSource(strings = {"bert", "roberta", "xlm-roberta", "distilbert", "electra"})
  void textsAndPairsAreClassified(String type) {
    FamilyReference reference = write(type, "text-classification");
    try (TextClassifier classifier = TextClassifier.open(folder.toString(), "cpu")) {
      int[] ids = single("ada lives in rome .");
      double[] expected = softmax(reference.textClassification(ids, new int[ids.length]));
      assertScores(classifier.classify("Ada lives in Rome."), expected);
      // Several texts go through as one batch, the longest first; the order stays.
      List<List<TextClassifier.Label>> both =
          classifier.classify(List.of("oslo", "Ada lives in Rome."));
      assertScores(both.get(1), expected);
      int[] first = joined(new int[] {CLS}, ids("ada lives"), new int[] {SEP});
      int[] between = roberta(type) ? new int[] {SEP} : new int[0];
      int[] pair = joined(first, between, ids("in oslo"), new int[] {SEP});
      int[] types = new int[pair.length];
      if (type.equals("bert") || type.equals("electra")) {
        Arrays.fill(types, first.length, types.length, 1);
      }
      assertScores(
          classifier.classify("ada lives", "in oslo"),
          softmax(reference.textClassification(pair, types)));
      // Longer than the model has positions: cut off before the last special token.
      String words = "ada ".repeat(100);
      int[] cut = joined(single("ada ".repeat(FamilyReference.POSITIONS - 2).strip()));
      assertScores(
          classifier.classify(words),
          softmax(reference.textClassification(cut, new int[cut.length])));
    }
  }

  private static void assertScores(List<TextClassifier.Label> found, double[] expected) {
    List<String> names = List.of("O", "B-PER", "I-PER");
    assertThat(found).hasSize(expected.length);
    for (int i = 1; i < found.size(); i++) {
      assertThat(found.get(i).score()).isLessThanOrEqualTo(found.get(i - 1).score());
    }
    for (TextClassifier.Label label : found) {
      assertThat(label.score()).isCloseTo(expected[names.indexOf(label.label())], offset(2e-5));
    }
  }

  @Test
  void classesOfTheirOwnHaveProbabilitiesOfTheirOwn() {
    FamilyReference reference = write("bert", "text-classification");
    Map<String, Object> config = new LinkedHashMap<>(reference.config());
    config.put("problem_type", "multi_label_classification");
    Json.write(folder.resolve("config.json"), config);
    int[] ids = single("oslo");
    double[] logits = reference.textClassification(ids, new int[ids.length]);
    try (TextClassifier classifier = TextClassifier.open(folder.toString(), "cpu")) {
      assertScores(
          classifier.classify("Oslo"),
          Arrays.stream(logits).map(v -> 1 / (1 + Math.exp(-v))).toArray());
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"bert", "roberta", "distilbert", "electra"})
  void neighbouringTokensOfAClassAreOneSpan(String type) {
    FamilyReference reference = write(type, "token-classification");
    String text = "ada lives in rome and egon lives in oslo .";
    int[] ids = single(text);
    double[][] logits = reference.tokenClassification(ids, new int[ids.length]);
    // O is 0, B-PER 1, I-PER 2: a span begins at every B, and wherever the class changes.
    List<TokenClassifier.Entity> expected = new ArrayList<>();
    String[] words = text.split(" ");
    int at = 0;
    int start = -1;
    int end = 0;
    double sum = 0;
    int count = 0;
    for (int word = 0; word <= words.length; word++) {
      int best = 0;
      double[] scores = new double[3];
      if (word < words.length) {
        scores = softmax(logits[word + 1]);
        for (int i = 1; i < 3; i++) {
          best = scores[i] > scores[best] ? i : best;
        }
      }
      if (start >= 0 && (best != 2)) {
        expected.add(
            new TokenClassifier.Entity("PER", sum / count, text.substring(start, end), start, end));
        start = -1;
      }
      if (best != 0) {
        if (start < 0) {
          start = at;
          sum = 0;
          count = 0;
        }
        sum += scores[best];
        count++;
        end = at + words[word].length();
      }
      at += word < words.length ? words[word].length() + 1 : 0;
    }
    assertThat(expected).isNotEmpty();
    try (TokenClassifier classifier = TokenClassifier.open(folder.toString(), "cpu")) {
      List<TokenClassifier.Entity> found = classifier.classify(text);
      assertThat(found).hasSameSizeAs(expected);
      for (int i = 0; i < found.size(); i++) {
        assertThat(found.get(i).score()).isCloseTo(expected.get(i).score(), offset(2e-5));
        assertThat(found.get(i).text()).isEqualTo(expected.get(i).text());
        assertThat(found.get(i).entityGroup()).isEqualTo("PER");
        assertThat(found.get(i).start()).isEqualTo(expected.get(i).start());
      }
      assertThat(classifier.classify("")).isEmpty();
      // In windows: every span still has its words, in order.
      String longText = (text + " ").repeat(20).strip();
      int previous = 0;
      for (TokenClassifier.Entity entity : classifier.classify(longText)) {
        assertThat(longText.substring(entity.start(), entity.end())).isEqualTo(entity.text());
        assertThat(entity.start()).isGreaterThanOrEqualTo(previous);
        previous = entity.end();
      }
      assertThat(previous).isGreaterThan(longText.length() / 2);
    }
  }

  @ParameterizedTest
  @ValueSource(strings = {"bert", "roberta", "distilbert", "electra"})
  void embeddingsFollowTheFoldersPooling(String type) {
    FamilyReference reference = write(type, "none");
    int[] ids = single("ada lives in rome .");
    assertEmbedding(reference.embedding(ids, new int[ids.length], true, false));
    Json.write(folder.resolve("1_Pooling/config.json"), Map.of("pooling_mode_cls_token", true));
    Json.write(
        folder.resolve("modules.json"),
        List.of(Map.of("type", "sentence_transformers.models.Normalize")));
    assertEmbedding(reference.embedding(ids, new int[ids.length], false, true));
    Json.write(folder.resolve("sentence_bert_config.json"), Map.of("max_seq_length", 4));
    int[] cut = single("ada lives");
    assertEmbedding(reference.embedding(cut, new int[cut.length], false, true));
  }

  private void assertEmbedding(double[] expected) {
    try (TextEmbedder embedder = TextEmbedder.open(folder.toString(), "cpu")) {
      assertThat(embedder.dimension()).isEqualTo(expected.length);
      float[] found = embedder.embed(List.of("b", "Ada lives in Rome."))[1];
      for (int i = 0; i < expected.length; i++) {
        assertThat((double) found[i]).isCloseTo(expected[i], offset(2e-5));
      }
    }
  }

  @Test
  void aRealModelPutsWhatMeansTheSameNearer() {
    try (TextEmbedder embedder = TextEmbedder.open("all-MiniLM-L6-v2", "cpu")) {
      float[][] e =
          embedder.embed(
              List.of("A man is eating food.", "A man eats a meal.", "The stock market fell."));
      assertThat(dot(e[0], e[0])).isCloseTo(1, offset(1e-5));
      assertThat(dot(e[0], e[1])).isGreaterThan(0.6).isGreaterThan(3 * dot(e[0], e[2]));
    }
  }

  private static double dot(float[] a, float[] b) {
    double sum = 0;
    for (int i = 0; i < a.length; i++) {
      sum += (double) a[i] * b[i];
    }
    return sum;
  }

  @ParameterizedTest
  @ValueSource(strings = {"roberta", "distilbert", "electra"})
  void questionsAreAnsweredByEveryFamily(String type) {
    FamilyReference reference = write(type, "question-answering");
    List<Steps.Answer> answers =
        Steps.predict(
            folder.toString(),
            "cpu",
            "ada lives",
            "in rome and oslo",
            new FeatureSettings(FamilyReference.POSITIONS, 8),
            EvaluationSettings.DEFAULT,
            Progress.NONE);
    int[] between = roberta(type) ? new int[] {SEP, SEP} : new int[] {SEP};
    int[] ids =
        joined(
            new int[] {CLS}, ids("ada lives"), between, ids("in rome and oslo"), new int[] {SEP});
    int from = 1 + 2 + between.length;
    int[] types = new int[ids.length];
    if (type.equals("electra")) {
      Arrays.fill(types, from, types.length, 1);
    }
    double[][] logits = reference.questionAnswering(ids, types);
    double best = Double.NEGATIVE_INFINITY;
    String text = "";
    String[] words = {"in", "rome", "and", "oslo"};
    for (int start = 0; start < 4; start++) {
      for (int end = start; end < 4; end++) {
        double score = logits[from + start][0] + logits[from + end][1];
        if (score > best) {
          best = score;
          text = String.join(" ", Arrays.copyOfRange(words, start, end + 1));
        }
      }
    }
    assertThat(answers.getFirst().text()).isEqualTo(text);
    assertThat(answers.getFirst().score()).isCloseTo(best, offset(5e-5));
  }
}
