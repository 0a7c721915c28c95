package dev.halve.qa;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.node.ArrayNode;
import tools.jackson.databind.node.ObjectNode;

/**
 * A BERT vocabulary file, one token a line, with the settings that Hugging Face's BertTokenizer
 * takes from {@code tokenizer_config.json} beside it, and the {@code tokenizer.json} that does the
 * same.
 *
 * @param stripAccents null: where it makes lower case, as BERT did
 */
record WordPieceVocabulary(
    Map<String, Integer> ids,
    boolean lowerCase,
    Boolean stripAccents,
    boolean chineseCharacters,
    Map<String, String> specialTokens) {
  private static final Map<String, String> DEFAULT_SPECIAL_TOKENS =
      specialTokens("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]");

  private static Map<String, String> specialTokens(
      String pad, String unknown, String classify, String separate, String mask) {
    Map<String, String> tokens = new LinkedHashMap<>();
    tokens.put("pad_token", pad);
    tokens.put("unk_token", unknown);
    tokens.put("cls_token", classify);
    tokens.put("sep_token", separate);
    tokens.put("mask_token", mask);
    return tokens;
  }

  /**
   * Where no setting says whether texts are made lower case, the vocabulary does: one with capital
   * letters in its words needs the texts as they are.
   *
   * <p>Of a token that is there twice the later line counts, as in Hugging Face's.
   *
   * @throws HalveException if the file cannot be read or lacks a special token
   */
  static WordPieceVocabulary read(Path file) {
    Map<String, Integer> ids = new LinkedHashMap<>();
    String text = new String(Tokenizer.bytes(file), StandardCharsets.UTF_8);
    int line = 0;
    for (String token : text.split("\r?\n")) {
      ids.put(token, line++);
    }
    Path config = file.resolveSibling("tokenizer_config.json");
    JsonNode settings = Files.exists(config) ? Json.read(config) : Json.MAPPER.createObjectNode();
    Map<String, String> specialTokens = new LinkedHashMap<>();
    DEFAULT_SPECIAL_TOKENS.forEach(
        (role, usual) -> specialTokens.put(role, specialToken(settings.path(role), usual)));
    for (String role : List.of("unk_token", "cls_token", "sep_token")) {
      if (!ids.containsKey(specialTokens.get(role))) {
        throw new HalveException(
            "%s is no BERT vocabulary: it lacks %s".formatted(file, specialTokens.get(role)));
      }
    }
    JsonNode accents = settings.path("strip_accents");
    return new WordPieceVocabulary(
        ids,
        settings.path("do_lower_case").asBoolean(!hasCapitals(ids)),
        accents.isBoolean() ? (Boolean) accents.booleanValue() : null,
        settings.path("tokenize_chinese_chars").asBoolean(true),
        specialTokens);
  }

  private static String specialToken(JsonNode setting, String usual) {
    return setting.isObject() ? setting.path("content").asString(usual) : setting.asString(usual);
  }

  private static boolean hasCapitals(Map<String, Integer> ids) {
    return ids.keySet().stream()
        .anyMatch(
            token -> !token.startsWith("[") && token.chars().anyMatch(c -> c >= 'A' && c <= 'Z'));
  }

  /** An equivalent {@code tokenizer.json}, in UTF-8. */
  byte[] toTokenizerJson() {
    ObjectNode root = Json.MAPPER.createObjectNode();
    root.put("version", "1.0");
    root.putNull("truncation");
    root.putNull("padding");
    ArrayNode added = root.putArray("added_tokens");
    specialTokens.values().stream()
        .filter(ids::containsKey)
        .forEach(token -> added.add(addedToken(token)));
    ObjectNode normalizer = root.putObject("normalizer");
    normalizer.put("type", "BertNormalizer");
    normalizer.put("clean_text", true);
    normalizer.put("handle_chinese_chars", chineseCharacters);
    normalizer.put("strip_accents", stripAccents);
    normalizer.put("lowercase", lowerCase);
    root.putObject("pre_tokenizer").put("type", "BertPreTokenizer");
    String classify = specialTokens.get("cls_token");
    String separate = specialTokens.get("sep_token");
    ObjectNode pair = root.putObject("post_processor");
    pair.put("type", "BertProcessing");
    pair.putArray("sep").add(separate).add(ids.get(separate));
    pair.putArray("cls").add(classify).add(ids.get(classify));
    ObjectNode decoder = root.putObject("decoder");
    decoder.put("type", "WordPiece");
    decoder.put("prefix", "##");
    decoder.put("cleanup", true);
    ObjectNode model = root.putObject("model");
    model.put("type", "WordPiece");
    model.put("unk_token", specialTokens.get("unk_token"));
    model.put("continuing_subword_prefix", "##");
    model.put("max_input_chars_per_word", 100);
    ObjectNode vocabulary = model.putObject("vocab");
    ids.forEach(vocabulary::put);
    return Json.compact(root).getBytes(StandardCharsets.UTF_8);
  }

  private ObjectNode addedToken(String token) {
    ObjectNode added = Json.MAPPER.createObjectNode();
    added.put("id", ids.get(token));
    added.put("content", token);
    for (String flag : List.of("single_word", "lstrip", "rstrip", "normalized")) {
      added.put(flag, false);
    }
    added.put("special", true);
    return added;
  }
}
