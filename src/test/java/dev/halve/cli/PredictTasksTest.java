package dev.halve.cli;

import static dev.halve.cli.CommandLineRun.halve;
import static dev.halve.cli.CommandLineRun.with;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import com.sun.net.httpserver.HttpServer;
import dev.halve.core.io.AtomicFile;
import dev.halve.core.io.Json;
import dev.halve.engine.FamilyReference;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.InetAddress;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import tools.jackson.databind.JsonNode;

/**
 * {@code halve predict --task}, by its output and exit code; and a model by its name on the hub.
 */
class PredictTasksTest {
  private static final List<String> WORDS = List.of("ada", "lives", "in", "rome");

  @TempDir Path folder;

  private Path model(String type, String head) {
    List<String> tokens = new ArrayList<>(List.of("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"));
    tokens.addAll(WORDS);
    while (tokens.size() < FamilyReference.VOCABULARY) {
      tokens.add("##" + tokens.size());
    }
    Path model = folder.resolve(type + "-" + head);
    AtomicFile.write(model.resolve("vocab.txt"), String.join("\n", tokens) + "\n");
    new FamilyReference(type, head, 3).write(model);
    return model;
  }

  private static CommandLineRun succeed(Object... arguments) {
    CommandLineRun run = halve(arguments);
    assertThat(run.exitCode()).as(run.err()).isZero();
    assertThat(run.err()).isEmpty();
    return run;
  }

  @Test
  void textsAndPairsAreClassified() throws IOException {
    Path model = model("distilbert", "text-classification");
    Object[] task = {
      "predict", "--device", "cpu", "--task", "text-classification", "--model", model
    };
    Path lines = Files.writeString(folder.resolve("lines"), "Ada lives\n\nin Rome\n");
    JsonNode answer = succeed(with(task, "--text-file", lines, "--json")).json();
    assertThat(answer.get("task").asString()).isEqualTo("text-classification");
    assertThat(answer.get("results").size()).isEqualTo(2);
    for (JsonNode result : answer.get("results")) {
      double sum = 0;
      for (JsonNode label : result.get("labels")) {
        sum += label.get("score").asDouble();
      }
      assertThat(sum).isCloseTo(1, within(1e-9));
    }
    assertThat(succeed(with(task, "--text", "Ada", "--text", "Rome")).out().lines())
        .hasSize(2)
        .allMatch(line -> line.matches("(O|B-PER|I-PER) 0\\.\\d{4}"));
    assertThat(succeed(with(task, "--text", "Ada", "--text-pair", "Rome")).out().lines())
        .hasSize(1);
  }

  @Test
  void tokensAreClassifiedAndTextsEmbedded() {
    Path tagger = model("bert", "token-classification");
    JsonNode tagged =
        succeed(
                "predict",
                "--device",
                "cpu",
                "--task",
                "token-classification",
                "--model",
                tagger,
                "--text",
                "Ada lives in Rome",
                "--json")
            .json();
    for (JsonNode entity : tagged.get("results").get(0).get("entities")) {
      assertThat(entity.get("entity_group").asString()).isEqualTo("PER");
      assertThat("Ada lives in Rome")
          .contains(entity.get("text").asString())
          .startsWith("Ada lives in Rome".substring(0, entity.get("start").asInt()));
    }
    Path encoder = model("electra", "none");
    Object[] embed = {
      "predict", "--device", "cpu", "--task", "embedding", "--model", encoder, "--text", "Ada"
    };
    JsonNode embedding = succeed(with(embed, "--json")).json().get("results").get(0);
    assertThat(embedding.get("embedding").size()).isEqualTo(FamilyReference.HIDDEN);
    assertThat(succeed(embed).out().strip().split(" ")).hasSize(FamilyReference.HIDDEN);
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "--task translation --question q --context c|--task must be",
        "--task embedding|needs texts",
        "--task embedding --question q --text t|takes no question",
        "--task embedding --text t --context c|takes no context",
        "--task embedding --text a --text-pair b|--text-pair goes with",
        "--question q --context c --text t|no --text",
        "--task text-classification --text t|name a model",
        "--task embedding --text-file nowhere|cannot read nowhere",
      })
  void whatDoesNotFitTogetherIsSaidInOneLine(String arguments, String complaint) {
    CommandLineRun run = halve((Object[]) ("predict " + arguments).split(" "));
    assertThat(run.exitCode()).isEqualTo(2);
    assertThat(run.out()).isEmpty();
    assertThat(run.err().lines()).hasSize(1);
    assertThat(run.err()).contains(complaint);
  }

  @Test
  void aHeadThatTheModelDoesNotHaveIsMissed() {
    CommandLineRun run =
        halve(
            "predict",
            "--task",
            "text-classification",
            "--model",
            model("roberta", "none"),
            "--text",
            "t");
    assertThat(run.exitCode()).isEqualTo(2);
    assertThat(run.err().lines()).hasSize(1);
    assertThat(run.err())
        .contains("classifier.out_proj.weight is missing", "no head for text classification");
  }

  @Test
  void theStandardInputIsAFileToo() {
    InputStream before = System.in;
    try {
      System.setIn(new ByteArrayInputStream("Grün.\n\nRot.\n".getBytes(StandardCharsets.UTF_8)));
      CommandLineRun run = halve("predict", "--task", "embedding", "--text-file", "-", "--json");
      assertThat(run.exitCode()).as(run.err()).isZero();
      assertThat(run.json().get("results").findValuesAsString("text"))
          .containsExactly("Grün.", "Rot.");
      System.setIn(new ByteArrayInputStream(new byte[] {'a', (byte) 0xFF}));
      run = halve("predict", "--task", "embedding", "--text-file", "-");
      assertThat(run.exitCode()).isEqualTo(2);
      assertThat(run.err().lines()).hasSize(1);
      assertThat(run.err()).contains("cannot read -");
    } finally {
      System.setIn(before);
    }
  }

  /** A process of its own, for the variables of the environment. */
  @Test
  void aModelOfTheHubIsNamedAndFetched() throws Exception {
    Path model = model("bert", "none");
    List<Object> files = new ArrayList<>();
    for (String file : List.of("config.json", "vocab.txt", "model.safetensors")) {
      byte[] content = Files.readAllBytes(model.resolve(file));
      String hash = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(content));
      files.add(Map.of("rfilename", file, "lfs", Map.of("sha256", hash, "size", content.length)));
    }
    String list = Json.compact(Map.of("sha", "0".repeat(40), "siblings", files));
    HttpServer server =
        HttpServer.create(new InetSocketAddress(InetAddress.getLoopbackAddress(), 0), 0);
    server.createContext(
        "/",
        exchange -> {
          try (exchange) {
            String path = exchange.getRequestURI().getPath();
            byte[] body =
                path.startsWith("/api/models/ada/tiny/revision/v2")
                    ? list.getBytes(StandardCharsets.UTF_8)
                    : Files.readAllBytes(model.resolve(path.substring(path.lastIndexOf('/') + 1)));
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
          }
        });
    server.start();
    try {
      ProcessBuilder command =
          new ProcessBuilder(
              HalveProcess.command(
                  "predict",
                  "--device",
                  "cpu",
                  "--task",
                  "embedding",
                  "--model",
                  "hf:ada/tiny@v2",
                  "--text",
                  "Ada"));
      command.environment().put("HF_ENDPOINT", "http://localhost:" + server.getAddress().getPort());
      command.environment().put("HF_HOME", folder.resolve("hf").toString());
      command.environment().remove("HF_HUB_OFFLINE");
      command.environment().remove("HF_HUB_CACHE");
      Path out = folder.resolve("out");
      Path err = folder.resolve("err");
      Process run = command.redirectOutput(out.toFile()).redirectError(err.toFile()).start();
      assertThat(run.waitFor()).as(Files.readString(err)).isZero();
      assertThat(Files.readString(out).strip().split(" ")).hasSize(FamilyReference.HIDDEN);
      assertThat(folder.resolve("hf/hub/models--ada--tiny/refs/v2")).exists();
    } finally {
      server.stop(0);
    }
  }
}
