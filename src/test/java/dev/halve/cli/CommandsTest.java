package dev.halve.cli;

import static dev.halve.cli.CommandLineRun.halve;
import static dev.halve.cli.CommandLineRun.with;
import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Pattern;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import tools.jackson.databind.JsonNode;

/** Every command on a small model, by its output and exit code. */
class CommandsTest {
  private static final String QUERY = "bert.encoder.layer.1.attention.self.query";

  @TempDir static Path folder;
  private static Path model;
  private static Path questions;
  private static Path pruned;
  private static Path sparse;

  @BeforeAll
  static void setUp() throws IOException {
    model = SmallModel.write(folder.resolve("model"));
    questions = SmallModel.questions(folder.resolve("questions.json"));
    pruned = folder.resolve("pruned");
    sparse = folder.resolve("sparse");
    assertThat(succeed("prune", "--model", model, "--out", pruned).out())
        .contains(pruned.toString(), "50.0%", "12 weights");
    assertThat(succeed("convert", "--model", pruned, "--to", "2:4", "--out", sparse).out())
        .contains(sparse.toString(), "MB");
  }

  private static CommandLineRun succeed(Object... arguments) {
    CommandLineRun run = halve(arguments);
    assertThat(run.exitCode()).as(run.err()).isZero();
    return run;
  }

  private static JsonNode json(Object... arguments) {
    Object[] withJson = java.util.Arrays.copyOf(arguments, arguments.length + 1);
    withJson[arguments.length] = "--json";
    return succeed(withJson).json();
  }

  @Test
  void everyMethodPrunesToTwoOfFour() throws IOException {
    Path text = folder.resolve("calibration.txt");
    Files.writeString(text, "Ada lives in Rome, and Bela in Oslo. ".repeat(40));
    Object[][] methods = {
      {"--method", "wanda", "--calibration", text},
      {"--method", "sparsegpt", "--calibration", questions, "--permute", "--damping", 0.1},
      {"--method", "transposable"},
      {"--permute"}
    };
    Path out = folder.resolve("by-method");
    for (Object[] method : methods) {
      List<Object> command = new ArrayList<>(List.of("prune", "--model", model, "--out", out));
      command.addAll(List.of(method));
      command.addAll(
          List.of("--calibration-length", 64, "--calibration-rows", 6, "--calibration-seed", 3));
      JsonNode found = json(command.toArray());
      assertThat(found.get("sparsity").asDouble()).isEqualTo(0.5);
      assertThat(found.get("method").asString())
          .startsWith(method[0].equals("--method") ? (String) method[1] : "magnitude");
      assertThat(succeed("inspect", out).out()).contains("12 of 16 matrices are 2:4");
    }
    JsonNode oneOfFour =
        json("prune", "--model", model, "--out", out, "--pattern", "1:4", "--keep-dense", "*.key");
    assertThat(oneOfFour.get("layers").valueStream().map(each -> each.get("pattern").asString()))
        .containsOnly("1:4", "dense");
  }

  @Test
  void pruningReconstructsAndRetrainsInOneCommand() {
    Path out = folder.resolve("recovered");
    Object[] prune = {
      "prune",
      "--model",
      model,
      "--method",
      "sparsegpt",
      "--calibration",
      questions,
      "--device",
      "cpu",
      "--calibration-length",
      64,
      "--reconstruct",
      30,
      "--out",
      out
    };
    JsonNode found = json(prune);
    assertThat(found.get("blocks").size()).isEqualTo(4);
    assertThat(found.get("blocks").valueStream())
        .allMatch(block -> block.get("after").asDouble() < block.get("before").asDouble());
    assertThat(found.get("sparsity").asDouble()).isEqualTo(0.5);
    Object[] retrain = {"--retrain", "--train", questions, "--max-length", 64, "--max-steps", 3};
    assertThat(succeed(with(prune, retrain)).out())
        .contains("reconstructed 4 blocks", out + ": trained 3 steps", "50.0%");
    for (Path each : List.of(out, out.resolve("pruned"))) {
      assertThat(succeed("inspect", each).out()).contains("12 of 16 matrices are 2:4");
    }
    assertThat(halve("prune", "--model", model, "--reconstruct", 3, "--out", out).err())
        .contains("reconstruction needs text");
  }

  @Test
  void masksAreChosenInTraining() {
    Path out = folder.resolve("chosen");
    Object[] train = {
      "train",
      "--model",
      model,
      "--train",
      questions,
      "--max-length",
      64,
      "--max-steps",
      6,
      "--mask-steps",
      1,
      "--device",
      "cpu",
      "--out",
      out
    };
    assertThat(json(with(train, "--masked-decay", 1e-3)).get("sparsity").asDouble()).isEqualTo(0.5);
    assertThat(succeed("inspect", out).out()).contains("12 of 16 matrices are 2:4");
    Object[] grow = {"--sparsity-schedule", "cubic", "--sparsity-level", 0.75};
    Object[] unstructured = {"--sparse-block-shape", "1x1", "--zeros-per-block", 1};
    assertThat(json(with(with(train, grow), unstructured)).get("sparsity").asDouble())
        .isBetween(0.74, 0.76);
    assertThat(halve(with(with(train, grow), "--masked-decay", 1e-3)).err())
        .contains("exclude each other");
  }

  @Test
  void denseRowsTravelBesideTwoOfFour() throws IOException {
    Path zeros = folder.resolve("hybrid-zeros");
    Path hybrid = folder.resolve("hybrid");
    Path back = folder.resolve("hybrid-back");
    JsonNode found = json("prune", "--model", model, "--dense-rows", 0.5, "--out", zeros);
    assertThat(found.get("method").asString()).isEqualTo("magnitude, 50.0% of rows dense");
    // The intermediate layers have two blocks of rows, the others one, which is pruned. Of 32 rows
    // of 16 inputs 16 are dense; the others have 8 values and 2 bytes of metadata each.
    assertThat(
            found
                .get("layers")
                .valueStream()
                .filter(each -> each.get("pattern").asString().equals("2:4 and dense rows"))
                .map(each ->
                    each.get("name").asString() + " " + each.get("compressed_bytes").asInt()))
        .containsExactly(
            "bert.encoder.layer.0.intermediate.dense.weight 1570",
            "bert.encoder.layer.1.intermediate.dense.weight 1570");
    succeed("convert", "--model", zeros, "--to", "2:4", "--out", hybrid);
    assertThat(Files.size(hybrid.resolve("model.safetensors")))
        .isLessThan(Files.size(zeros.resolve("model.safetensors")));
    Object[] asked = {"--eval", questions, "--max-length", 64};
    assertThat(json(with(new Object[] {"eval", "--model", hybrid}, asked)).get("f1"))
        .isEqualTo(json(with(new Object[] {"eval", "--model", zeros}, asked)).get("f1"));
    succeed("convert", "--model", hybrid, "--to", "dense", "--out", back);
    assertThat(
            Files.mismatch(back.resolve("model.safetensors"), zeros.resolve("model.safetensors")))
        .isEqualTo(-1);
    succeed("inspect", hybrid);
  }

  @Test
  void methodsAreComparedAndLayersRanked() {
    Object[] text = {"--calibration", questions, "--calibration-length", 64};
    Object[] compare = {"prune", "--model", model, "--compare"};
    JsonNode comparison = json(with(with(compare, text), "--eval", questions));
    assertThat(comparison.get("questions").asInt()).isEqualTo(8);
    assertThat(comparison.get("methods").valueStream().map(each -> each.get("method").asString()))
        .containsExactly(
            "magnitude",
            "magnitude, permuted",
            "wanda",
            "wanda, permuted",
            "sparsegpt",
            "sparsegpt, permuted",
            "transposable");
    assertThat(comparison.get("methods").valueStream())
        .allMatch(each -> each.get("reconstruction_error").size() == 12)
        .allMatch(each -> each.get("score").get("f1").isNumber());
    assertThat(succeed(with(compare, text)).out())
        .containsPattern("(?m)^sparsegpt, permuted( +\\d+\\.\\d\\d){5} +\\d+\\.\\d$")
        .containsPattern("(?m)^1( +\\d+\\.\\d\\d){7}$");
    Path plot = folder.resolve("layers.png");
    Object[] rank = {"prune", "--model", model, "--sensitivity", "--plot", plot};
    assertThat(succeed(with(rank, text)).out()).containsPattern("(?m)^1 +bert.* +\\d+\\.\\d{3}$");
    assertThat(plot).isNotEmptyFile();
    Object[] budget = {"prune", "--model", model, "--keep-dense", "20%", "--out"};
    assertThat(succeed(with(with(budget, folder.resolve("budget")), text)).out())
        .contains("kept dense, it suffers most: bert.encoder.layer");
  }

  @Test
  void benchTimesTrainingSteps() {
    JsonNode timed =
        json(
            "bench",
            "--training",
            "--device",
            "cpu",
            "--model",
            model,
            "--batches",
            "2,3",
            "--seq",
            "12",
            "--repeats",
            "4");
    assertThat(timed.get("rows")).hasSize(2);
    JsonNode second = timed.get("rows").get(1);
    assertThat(second.get("batch").asInt()).isEqualTo(3);
    assertThat(second.get("tokens").asInt()).isEqualTo(36);
    assertThat(second.get("steps").asInt()).isEqualTo(4);
    assertThat(second.get("ms_p10").asDouble())
        .isPositive()
        .isLessThanOrEqualTo(second.get("ms_p50").asDouble());
    assertThat(
            succeed(
                    "bench",
                    "--training",
                    "--device",
                    "cpu",
                    "--model",
                    model,
                    "--batches",
                    "2",
                    "--seq",
                    "12",
                    "--repeats",
                    "3")
                .out())
        .contains("training steps, F32 on cpu", "rows/s");
  }

  @Test
  void inspectShowsTheModulesAndTheirPatterns() {
    String dense = succeed("inspect", model).out();
    assertThat(dense)
        .containsPattern("(?m)^bert$")
        .containsPattern("(?m)^ +query +F32 \\[16, 16\\] \\+ bias +dense ")
        .contains("0 of 16 matrices are 2:4");
    String zeros = succeed("inspect", pruned).out();
    assertThat(zeros)
        .containsPattern("(?m)^ +query +F32 \\[16, 16\\] \\+ bias +2:4 .* -> ")
        .contains("12 of 16 matrices are 2:4");
    assertThat(succeed("inspect", sparse.resolve("model.safetensors")).out())
        .containsPattern("(?m)^ +query +F32 \\[16, 16\\] \\+ bias +2:4, compressed ");
    assertThat(dense.indexOf("embeddings")).isLessThan(dense.indexOf("encoder"));
  }

  @Test
  void inspectAsJsonWeighsEveryTensor() throws IOException {
    JsonNode summary = json("inspect", sparse);
    long stored = Files.size(sparse.resolve("model.safetensors"));
    assertThat(summary.get("compressed_bytes").asLong()).isLessThan(stored);
    assertThat(stored - summary.get("compressed_bytes").asLong()).isLessThan(20_000);
    for (JsonNode tensor : summary.get("tensors")) {
      if (tensor.get("name").asString().equals(QUERY + ".weight")) {
        assertThat(tensor.get("stored").asString()).isEqualTo("2:4");
        assertThat(tensor.get("pattern").asString()).isEqualTo("2:4");
        assertThat(tensor.get("sparsity").asDouble()).isEqualTo(0.5);
        // 256 elements: half of them as F32, and four bits for every four.
        assertThat(tensor.get("dense_bytes").asLong()).isEqualTo(1024);
        assertThat(tensor.get("compressed_bytes").asLong()).isEqualTo(512 + 32);
        return;
      }
    }
    assertThat(summary.toString()).contains(QUERY);
  }

  @Test
  void theCornerOfACompressedWeightHasTwoZerosInEveryFour() {
    CommandLineRun run = succeed("inspect", sparse, "--tensor", QUERY, "--corner", 8);
    assertThat(run.out().lines()).hasSize(9);
    assertThat(run.out().lines().skip(1))
        .allSatisfy(line -> {
          for (String group : line.split(Pattern.quote("|"))) {
            assertThat(group.strip().split("\\s+")).hasSize(4).filteredOn("0"::equals).hasSize(2);
          }
        });
    JsonNode values = json("inspect", pruned, "--tensor", QUERY, "--corner", 3).get("values");
    assertThat(values.size()).isEqualTo(3);
    assertThat(values.get(0).size()).isEqualTo(3);
  }

  @Test
  void compressedAndPrunedModelsAnswerTheSame() {
    Object[] question = {"--question", "Where does Ada live?", "--context", "Ada lives in Rome."};
    JsonNode masked =
        json("predict", "--model", pruned, question[0], question[1], question[2], question[3]);
    JsonNode compressed =
        json("predict", "--model", sparse, question[0], question[1], question[2], question[3]);
    JsonNode answer = compressed.get("answers").get(0);
    assertThat(answer.get("text")).isEqualTo(masked.get("answers").get(0).get("text"));
    int start = answer.get("start").asInt();
    int end = answer.get("end").asInt();
    assertThat("Ada lives in Rome.".substring(start, end)).isEqualTo(answer.get("text").asString());
  }

  @Test
  void evalAndScoreAgree() throws IOException {
    Path predictions = folder.resolve("predictions.json");
    JsonNode evaluated =
        json(
            "eval",
            "--model",
            sparse,
            "--eval",
            questions,
            "--max-length",
            128,
            "--predictions",
            predictions);
    JsonNode scored = succeed("score", "--data", questions, "--predictions", predictions).json();
    assertThat(scored.propertyNames()).containsExactly("exact_match", "f1", "total");
    assertThat(scored.get("f1").asDouble()).isCloseTo(evaluated.get("f1").asDouble(), within(1e-9));
    assertThat(scored.get("total").asInt()).isEqualTo(8);

    Files.writeString(predictions, "{\"q0\": \"Rome 1\"}");
    CommandLineRun partial = succeed("score", "--data", questions, "--predictions", predictions);
    assertThat(partial.json().get("exact_match").asDouble()).isEqualTo(12.5);
    assertThat(partial.err().lines()).hasSize(7).first().asString().contains("q1");
  }

  @Test
  void trainingKeepsWhatIsPruned() {
    Path retrained = folder.resolve("retrained");
    JsonNode trained =
        json(
            "train",
            "--model",
            sparse,
            "--train",
            questions,
            "--max-length",
            128,
            "--max-steps",
            2,
            "--learning-rate",
            0.01,
            "--logging-steps",
            1,
            "--out",
            retrained);
    assertThat(trained.get("steps").asInt()).isEqualTo(2);
    assertThat(trained.get("loss").size()).isEqualTo(2);
    assertThat(succeed("inspect", retrained).out()).contains("12 of 16 matrices are 2:4");
  }

  @Test
  void quickstartChecksAndTimes() {
    Object[] layer = {"quickstart", "--device", "cpu", "--tokens", 16, "--in", 64, "--out", 32};
    JsonNode result = json(layer);
    assertThat(result.get("max_difference").asDouble()).isLessThanOrEqualTo(1e-3);
    assertThat(result.get("dense").get("ms_p50").asDouble()).isPositive();
    assertThat(result.get("2:4").get("ms_p50").asDouble()).isPositive();
    assertThat(succeed(layer).out()).contains("outputs equal within 0.001", "times as fast");
  }

  @Test
  void aDenseModelIsNotCompressedButPrunedFirst() {
    Object[] convert = {
      "convert", "--model", model, "--to", "2:4", "--out", folder.resolve("no-zeros")
    };
    assertThat(succeed(convert).out().lines())
        .hasSize(2)
        .last()
        .asString()
        .contains("no weight is 2:4; prune the model first");
    JsonNode converted = json(convert);
    assertThat(converted.get("compressed").asInt()).isZero();
    assertThat(converted.get("left_dense").size()).isEqualTo(12);
  }

  @Test
  void benchPrintsOneRowForEachCandidateAndBatch() {
    Object[] bench = {
      "bench", "--device", "cpu", "--model", sparse, "--batches", "1,2", "--seq", 16, "--repeats", 3
    };
    JsonNode rows = json(bench).get("rows");
    assertThat(rows.size()).isEqualTo(8);
    assertThat(rows.get(0).propertyNames())
        .containsExactly(
            "engine",
            "weights",
            "mode",
            "batch",
            "seq",
            "tokens",
            "ms_p10",
            "ms_p50",
            "ms_p90",
            "tokens_per_s");
    assertThat(succeed(bench).out())
        .contains("halve 2:4 compiled agrees with halve dense with the same zeros")
        .containsPattern("(?m)^ +2 +32 +halve +2:4 +compiled +[\\d.]+ ms");
  }

  @Test
  void benchTakesRealLengths() throws IOException {
    Path lengths = Files.writeString(folder.resolve("lengths"), "5\n9\n500\n");
    JsonNode rows =
        json(
                "bench",
                "--device",
                "cpu",
                "--model",
                model,
                "--batches",
                4,
                "--seq",
                16,
                "--lengths",
                lengths,
                "--repeats",
                3,
                "--modes",
                "compiled",
                "--weights",
                "dense")
            .get("rows");
    assertThat(rows.get(0).get("tokens").asInt()).isEqualTo(5 + 9 + 16 + 5);
    assertThat(rows.get(0).get("seq").asInt()).isEqualTo(16);
  }

  @Test
  void onnxRuntimeRunsBesideAndAgrees() {
    JsonNode result =
        json(
            "bench",
            "--device",
            "cpu",
            "--batches",
            2,
            "--seq",
            24,
            "--repeats",
            3,
            "--modes",
            "compiled",
            "--peer",
            "onnxruntime");
    assertThat(result.get("agreements").get(0).get("with").asString()).isEqualTo("onnxruntime");
    assertThat(result.get("agreements").get(0).get("max_difference").asDouble())
        .isLessThanOrEqualTo(1e-4);
    assertThat(result.get("rows").findValuesAsString("engine"))
        .containsExactly("halve", "halve", "onnxruntime");
  }

  @Test
  void doctorNamesWhatIsThereAndWhatIsNot() {
    JsonNode diagnosis = json("doctor");
    assertThat(diagnosis.get("machine").get("processors").asInt()).isPositive();
    for (JsonNode finding : diagnosis.get("findings")) {
      if (finding.get("name").asString().equals("cpu")) {
        assertThat(finding.get("available").asBoolean()).isTrue();
        assertThat(finding.get("details").get("vector_bits").asInt()).isPositive();
      }
      assertThat(
              finding.get("available").asBoolean() || !finding.get("advice").asString().isEmpty())
          .as("advice on %s", finding)
          .isTrue();
    }
    assertThat(succeed("doctor").out()).contains("openblas", "all-MiniLM-L6-v2", "Java ");
  }
}
