package dev.halve.cli;

import static dev.halve.cli.CommandLineRun.halve;
import static dev.halve.cli.CommandLineRun.with;
import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.io.Safetensors;
import dev.halve.core.io.SafetensorsWriter;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.channels.FileLock;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.nio.file.StandardOpenOption;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.condition.DisabledOnOs;
import org.junit.jupiter.api.condition.EnabledOnOs;
import org.junit.jupiter.api.condition.OS;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import tools.jackson.databind.json.JsonMapper;

/**
 * Whatever is wrong with the input: exit code 2, one line on standard error that names the thing,
 * nothing on standard output, nothing half-written left.
 */
class BadInputTest {
  private static final String TENSOR = "bert.encoder.layer.1.output.dense.weight";

  @TempDir static Path shared;
  private static Path good;
  private static Path questions;

  @TempDir Path folder;

  @BeforeAll
  static void setUp() throws IOException {
    good = SmallModel.write(shared.resolve("good"));
    questions = SmallModel.questions(shared.resolve("questions.json"));
  }

  private static void assertRefused(CommandLineRun run, Object... named) {
    assertThat(run.exitCode()).as(run.err()).isEqualTo(2);
    assertThat(run.out()).isEmpty();
    assertThat(run.err().lines()).as(run.err()).hasSize(1);
    assertThat(run.err()).matches("(?s)halve( [a-z]+)?: .*");
    for (Object each : named) {
      assertThat(run.err()).contains(each.toString());
    }
  }

  /** Files and folders below the test's own folder that were not there before. */
  private static long count(Path folder) throws IOException {
    try (Stream<Path> files = Files.walk(folder)) {
      return files.count();
    }
  }

  private Path safetensors(String header, int dataBytes) throws IOException {
    byte[] json = header.getBytes(StandardCharsets.UTF_8);
    ByteBuffer file =
        ByteBuffer.allocate(Long.BYTES + json.length + dataBytes).order(ByteOrder.LITTLE_ENDIAN);
    file.putLong(json.length).put(json);
    return Files.write(folder.resolve("model.safetensors"), file.array());
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "{'w':{'dtype':'F32','shape':[4],'data_offsets':[0,32]}}|32",
        "{'w':{'dtype':'F32','shape':[4],'data_offsets':[0,12]}}|w",
        "{'w':{'dtype':'Q7','shape':[4],'data_offsets':[0,16]}}|Q7",
        "{'w':{'dtype':'F32','shape':[-4],'data_offsets':[0,16]}}|w",
        "{'w':{'dtype':'F32','shape':[2],'data_offsets':[0,8]},"
            + "'v':{'dtype':'F32','shape':[3],'data_offsets':[4,16]}}|overlap",
        "{'w':{'dtype':'F32','shape':[2],'data_offsets':[0,8]},"
            + "'w':{'dtype':'F32','shape':[2],'data_offsets':[8,16]}}|w",
        "{'w':|JSON",
      })
  void aLyingSafetensorsHeader(String header, String named) throws IOException {
    Path file = safetensors(header.replace('\'', '"'), 16);
    assertRefused(halve("inspect", file), "model.safetensors", named);
  }

  @Test
  void aTruncatedOrHugeSafetensorsFile() throws IOException {
    Path file = folder.resolve("cut.safetensors");
    byte[] bytes = Files.readAllBytes(good.resolve("model.safetensors"));
    Files.write(file, Arrays.copyOf(bytes, bytes.length - 5));
    assertRefused(halve("inspect", file), "cut.safetensors");
    Files.write(file, Arrays.copyOf(bytes, 5));
    assertRefused(halve("inspect", file), "cut.safetensors");
    Files.write(file, new byte[] {-1, -1, -1, -1, -1, -1, -1, 127, '{'});
    assertRefused(halve("inspect", file), "cut.safetensors", "header");
  }

  @Test
  void aTruncatedOnnxFile() throws IOException {
    byte[] onnx;
    try (var resource = getClass().getResourceAsStream("/all-minilm-l6-v2.onnx")) {
      onnx = resource.readNBytes(100_000);
    }
    Path file = Files.write(folder.resolve("cut.onnx"), onnx);
    assertRefused(halve("inspect", file), "cut.onnx");
    Files.writeString(file, "no protobuf at all");
    assertRefused(halve("inspect", file), "cut.onnx");
  }

  /** A copy of the good model with one of its tensors replaced. */
  private Path modelWith(String name, java.util.function.UnaryOperator<Tensor> change)
      throws IOException {
    Path model = Files.createDirectories(folder.resolve("model"));
    for (String file : new String[] {"config.json", "tokenizer.json"}) {
      Files.copy(good.resolve(file), model.resolve(file), StandardCopyOption.REPLACE_EXISTING);
    }
    try (Safetensors weights = Safetensors.open(good);
        Arena arena = Arena.ofConfined()) {
      SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
      for (String each : weights.names()) {
        Tensor copy = Tensor.allocate(arena, DType.F32, weights.tensor(each).shape().extents());
        copy.copyFrom(weights.tensor(each));
        tensors.put(each, each.equals(name) ? change.apply(copy) : copy);
      }
      tensors.values().removeIf(java.util.Objects::isNull);
      SafetensorsWriter.write(model.resolve("model.safetensors"), tensors, Map.of());
    }
    return model;
  }

  private static CommandLineRun prune(Path model, Path out) {
    return halve("prune", "--model", model, "--out", out);
  }

  @Test
  void aNanWeight() throws IOException {
    Path model =
        modelWith(
            TENSOR,
            tensor -> {
              tensor.setFloat(7, Float.NaN);
              return tensor;
            });
    assertRefused(prune(model, folder.resolve("out")), "model.safetensors", TENSOR, "NaN");
    assertThat(folder.resolve("out/model.safetensors")).doesNotExist();
  }

  @Test
  void aWeightBeyondSinglePrecision() throws IOException {
    Path out = folder.resolve("out");
    Path linear = modelWith(TENSOR, BadInputTest::withAHugeDouble);
    assertRefused(prune(linear, out), TENSOR, "1.0E300, which F32 cannot hold, at [0, 7]");
    // What no product reads is looked at where it is rounded.
    String norm = "bert.embeddings.LayerNorm.weight";
    Object[] convert = {
      "convert", "--model", modelWith(norm, BadInputTest::withAHugeDouble), "--out", out, "--to"
    };
    assertRefused(
        halve(with(convert, "dense", "--dtype", "float32")),
        norm,
        "1.0E300 at 7, which F32 cannot hold; find undamaged weights");
    assertRefused(halve(with(convert, "onnx")), norm, "1.0E300 at 7, which F32 cannot hold");
    assertThat(out.resolve("model.safetensors")).doesNotExist();
    assertThat(halve(with(convert, "dense")).exitCode()).isZero();
  }

  private static Tensor withAHugeDouble(Tensor tensor) {
    Tensor doubles = Tensor.allocate(Arena.ofAuto(), DType.F64, tensor.shape().extents());
    doubles.copyFrom(tensor);
    doubles.segment().setAtIndex(ValueLayout.JAVA_DOUBLE, 7, 1e300);
    return doubles;
  }

  @Test
  void aMisshapenWeight() throws IOException {
    Path model = modelWith(TENSOR, tensor -> tensor.reshape(8, 64));
    assertRefused(
        prune(model, folder.resolve("out")), "model.safetensors", TENSOR, "[8, 64]", "[16, 32]");
  }

  /** Of a weight's positions, one byte of the last row is flipped in the compressed file. */
  @Test
  void damagedMetadata() throws IOException {
    Path zeros = folder.resolve("zeros");
    Path sparse = folder.resolve("sparse");
    assertThat(prune(good, zeros).exitCode()).isZero();
    assertThat(halve("convert", "--model", zeros, "--to", "2:4", "--out", sparse).exitCode())
        .isZero();
    Path file = sparse.resolve("model.safetensors");
    byte[] bytes = Files.readAllBytes(file);
    int header = 8 + (int) ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).getLong();
    String json = new String(bytes, 8, header - 8, StandardCharsets.UTF_8);
    int end =
        JsonMapper.shared()
            .readTree(json)
            .get(TENSOR + ".metadata")
            .get("data_offsets")
            .get(1)
            .asInt();
    bytes[header + end - 1] ^= -1;
    Files.write(file, bytes);
    Path out = folder.resolve("out");
    for (CommandLineRun run :
        List.of(
            halve("inspect", sparse),
            halve("convert", "--model", sparse, "--to", "dense", "--out", out),
            halve("eval", "--model", sparse, "--eval", questions, "--max-length", 64))) {
      assertRefused(run, file.toString(), TENSOR, "row 15, group 6", "find undamaged weights");
    }
    assertThat(out).doesNotExist();
  }

  @Test
  void aMissingWeight() throws IOException {
    Path model = modelWith(TENSOR, tensor -> null);
    assertRefused(prune(model, folder.resolve("out")), "model.safetensors", TENSOR);
  }

  @Test
  void aConfigThatDoesNotFitTheWeights() throws IOException {
    Path model = modelWith("", tensor -> tensor);
    Path config = model.resolve("config.json");
    String json = Files.readString(config);
    Files.writeString(config, json.replaceAll("(\"hidden_size\"\\s*:\\s*)16", "$132"));
    assertThat(Files.readString(config)).isNotEqualTo(json);
    assertRefused(prune(model, folder.resolve("out")), "model.safetensors", "config.json");
    Files.writeString(config, json.replaceAll("(\"num_hidden_layers\"\\s*:\\s*)2", "$1\"two\""));
    assertRefused(prune(model, folder.resolve("out")), "config.json", "num_hidden_layers");
    Files.writeString(config, "{");
    assertRefused(prune(model, folder.resolve("out")), "config.json");
  }

  @Test
  void aTokenizerThatDoesNotFitTheVocabulary() throws IOException {
    Path model = modelWith("", tensor -> tensor);
    Files.delete(model.resolve("tokenizer.json"));
    Files.writeString(model.resolve("vocab.txt"), "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n");
    assertRefused(
        halve("predict", "--model", model, "--question", "a", "--context", "b"), "vocab.txt");
    Files.writeString(model.resolve("tokenizer.json"), "{}");
    assertRefused(
        halve("predict", "--model", model, "--question", "a", "--context", "b"),
        model.resolve("tokenizer.json").toString());
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      value = {
        "{\"data\": [|questions.json",
        "[]|SQuAD",
        "{\"data\": []}|no questions",
        "{\"data\": [{\"paragraphs\": [{\"context\": \"a b\", \"qas\": [{\"id\": \"q1\","
            + " \"question\": \"w?\", \"answers\": [{\"text\": \"c\", \"answer_start\": 0}]}]}]}]}"
            + "|not in its context",
        "{\"data\": [{\"paragraphs\": [{\"context\": \"a b\", \"qas\": [{\"id\": \"q1\","
            + " \"question\": \"\", \"answers\": [{\"text\": \"a\", \"answer_start\": 0}]}]}]}]}"
            + "|q1",
      })
  void malformedQuestions(String json, String named) throws IOException {
    Path file = Files.writeString(folder.resolve("questions.json"), json);
    Path answers = Files.writeString(folder.resolve("answers.json"), "{}");
    assertRefused(halve("score", "--data", file, "--predictions", answers), file.toString(), named);
    assertRefused(
        halve("train", "--model", good, "--train", file, "--out", folder.resolve("out")),
        file.toString(),
        named);
    assertRefused(halve("eval", "--model", good, "--eval", file), file.toString(), named);
    assertThat(folder.resolve("out/model.safetensors")).doesNotExist();
  }

  @Test
  void aContextThatIsTooLong() throws IOException {
    String text = "word ".repeat(20_001);
    Path file =
        Files.writeString(
            folder.resolve("questions.json"),
            ("{\"data\": [{\"paragraphs\": [{\"context\": \"%s\", \"qas\": [{\"id\": \"q1\","
                 + " \"question\": \"w?\", \"answers\": [{\"text\": \"word\", \"answer_start\": 0}]"
                 + "}]}]}]}")
                .formatted(text));
    assertRefused(halve("eval", "--model", good, "--eval", file), "q1", "100,0");
    assertRefused(
        halve(
            "predict",
            "--model",
            good,
            "--question",
            "w?",
            "--context-file",
            Files.writeString(folder.resolve("text"), text)),
        "100,0");
  }

  @Test
  void anEmptyQuestionOrContext() {
    assertRefused(
        halve("predict", "--model", good, "--question", " ", "--context", "b"), "question");
    assertRefused(halve("predict", "--model", good, "--question", "a", "--context", ""), "context");
  }

  @Test
  void malformedPredictions() throws IOException {
    Path file = Files.writeString(folder.resolve("answers.json"), "{\"q1\": 3}");
    assertRefused(halve("score", "--data", questions, "--predictions", file), "answers.json", "q1");
    assertRefused(
        halve("score", "--data", questions, "--predictions", folder.resolve("none.json")),
        "none.json");
  }

  @Test
  void anUnknownModelDeviceOrData() {
    assertRefused(
        halve("predict", "--model", "bert-huge", "--question", "a", "--context", "b"), "bert-huge");
    assertRefused(
        halve("predict", "--model", good, "--device", "tpu", "--question", "a", "--context", "b"),
        "tpu",
        "cpu",
        "cuda:0",
        "auto");
    Object[] shown = {"prune", "--model", good, "--device", "tpu", "--calibration", questions};
    assertRefused(pruneBy(good, "--device", "tpu"), "tpu", "auto");
    assertRefused(halve(with(shown, "--compare")), "tpu", "auto");
    assertRefused(halve(with(shown, "--sensitivity")), "tpu", "auto");
    assertRefused(halve("eval", "--model", good, "--data", "trivia"), "trivia", "squad");
    assertRefused(halve("tutorial", "--preset", "huge"), "huge", "quick");
  }

  @Test
  void anOutputThatCannotBeWritten() throws IOException {
    Path file = Files.writeString(folder.resolve("file"), "in the way");
    assertRefused(prune(good, file), file.toString());
    assertRefused(prune(good, file.resolve("below")), file.toString());
    assertRefused(
        halve("train", "--model", good, "--train", questions, "--max-steps", 1, "--out", file),
        file.toString());
    assertRefused(halve("tutorial", "--model", good, "--out", file), file.toString());
    assertRefused(
        halve("eval", "--model", good, "--eval", questions, "--predictions", folder),
        folder.toString());
    assertThat(file).hasContent("in the way");
    assertThat(count(folder)).isEqualTo(2);
  }

  @Test
  @EnabledOnOs(
      value = OS.LINUX,
      disabledReason = "nobody may write to /proc, not even root; Linux's")
  void aFolderWithoutTheRightToWrite() {
    assertRefused(prune(good, Path.of("/proc/halve")), "/proc/halve");
    assertRefused(
        halve("train", "--model", good, "--train", questions, "--out", "/proc/halve"),
        "/proc/halve");
  }

  /** A limit on the size of files stands in for a full disk: the write fails half way. */
  @Test
  @DisabledOnOs(value = OS.WINDOWS, disabledReason = "there is no ulimit")
  void aFullDisk() throws Exception {
    Path out = folder.resolve("out");
    List<String> command =
        new ArrayList<>(List.of("bash", "-c", "ulimit -f 500; exec \"$@\"", "-"));
    command.addAll(HalveProcess.command("prune", "--model", good, "--out", out));
    Process process = new ProcessBuilder(command).start();
    String err = new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor()).as(err).isEqualTo(2);
    assertThat(err.lines().filter(line -> !line.startsWith("WARNING: Using incubator")))
        .singleElement()
        .asString()
        .startsWith("halve: cannot write " + out.resolve("model.safetensors"));
    try (Stream<Path> files = Files.walk(out)) {
      assertThat(files.filter(Files::isRegularFile)).isEmpty();
    }
  }

  @Test
  void pruningThatCannotBe() throws IOException {
    Path empty = Files.writeString(folder.resolve("empty.txt"), " \n");
    Path missing = folder.resolve("missing.json");
    Path infinite =
        modelWith(
            TENSOR.replace("layer.1", "layer.0"),
            tensor -> {
              tensor.setFloat(7, Float.POSITIVE_INFINITY);
              return tensor;
            });
    Object[] wanda = {"--method", "wanda", "--calibration-length", 64, "--calibration"};
    assertRefused(pruneBy(good, "--method", "sparsegpt"), "sparsegpt needs text");
    assertRefused(pruneBy(good, with(wanda, empty)), empty.toString(), "no text");
    assertRefused(pruneBy(good, with(wanda, missing)), missing.toString());
    assertRefused(pruneBy(infinite, with(wanda, questions)), "layer.0", "is infinite at [0, 7]");
    assertRefused(
        pruneBy(good, "--method", "wanda", "--calibration", questions), "384 tokens", "128");
    assertRefused(
        pruneBy(good, with(wanda, questions, "--calibration-rows", 0)), "calibration rows", "0");
    assertRefused(pruneBy(good, "--pattern", "2:5"), "fits the pattern", "16 inputs");
    assertRefused(pruneBy(good, "--pattern", "5:4"), "5:4");
    assertRefused(pruneBy(good, "--pattern", "1:4", "--permute"), "2:4");
    assertRefused(pruneBy(good, "--method", "transposable", "--pattern", "1:4"), "1:4");
    assertRefused(pruneBy(good, "--pattern", "2:4", "--norm", 1), "--pattern");
    assertRefused(pruneBy(good, "--damping", 0), "damping", "0");
    assertRefused(pruneBy(good, "--keep-dense", "*.layer.9.*"), "*.layer.9.*");
    assertRefused(pruneBy(good, "--keep-dense", "10%"), "dense budget", "text");
    assertRefused(pruneBy(good, "--dense-rows", 1), "dense rows", "1");
    assertRefused(pruneBy(good, "--dense-rows", 0.1, "--pattern", "1:4"), "rows", "2:4");
    assertRefused(pruneBy(good, "--compare"), "--compare", "--out");
    assertRefused(halve("prune", "--model", good), "--out");
    assertRefused(halve("prune", "--model", good, "--compare"), "--calibration");
    assertRefused(halve("prune", "--model", good, "--sensitivity"), "--calibration");
    // Hours before there is a ranking to draw.
    Object[] plot = {"--sensitivity", "--calibration", questions, "--plot", questions.resolve("x")};
    assertRefused(halve(with(new Object[] {"prune", "--model", good}, plot)), "cannot write to");
    assertThat(folder.resolve("out")).doesNotExist();
  }

  private CommandLineRun pruneBy(Path model, Object... options) {
    Object[] command = {"prune", "--model", model, "--out", folder.resolve("out")};
    return halve(with(command, options));
  }

  /** Who asks for something in vain should hear of it at once, not after hours. */
  @Test
  void optionsThatWouldDoNothing() {
    Path out = folder.resolve("out");
    String[][] prune = {
      {"--epochs", "8", "--retrain"},
      {"--temperature", "2", "--retrain"},
      {"--resume", "", "--retrain"},
      {"--n-best", "3", "--compare"},
      {"--max-length", "64", "--sensitivity"},
      {"--train", questions.toString(), "--retrain"},
      {"--plot", "layers.png", "--sensitivity"}
    };
    for (String[] each : prune) {
      Object[] option =
          each[1].isEmpty() ? new Object[] {each[0]} : new Object[] {each[0], each[1]};
      assertRefused(pruneBy(good, option), each[0] + " does nothing without", each[2]);
    }
    assertRefused(pruneBy(good, "--compare", "--retrain"), "--compare", "exclude each other");
    Object[] train = {"train", "--model", good, "--train", questions, "--out", out};
    String[] choices = {"--masked-keep", "--masked-decay", "--sparsity-schedule"};
    assertRefused(halve(with(train, "--mask-steps", 5)), with(choices, "--mask-steps"));
    assertRefused(halve(with(train, "--sparsity-level", 0.9)), with(choices, "--sparsity-level"));
    assertRefused(halve(with(train, "--temperature", 2)), "--temperature", "--logit-weight");
    assertThat(out).doesNotExist();
  }

  @Test
  void namesThatAreNoChoice() {
    assertRefused(
        halve("train", "--model", good, "--out", "x", "--schedule", "steep"),
        "--schedule",
        "constant, linear",
        "'steep'");
    assertRefused(pruneBy(good, "--method", "best"), "--method", "sparsegpt", "'best'");
  }

  @Test
  void aFolderInPlaceOfQuestions() {
    assertRefused(
        halve("eval", "--model", good, "--eval", folder), "cannot read " + folder, "irectory");
  }

  /** Two runs in one folder would leave a model of one and the record of the other. */
  @Test
  void aFolderThatAnotherRunWorksIn() throws IOException {
    Path out = Files.createDirectories(folder.resolve("out"));
    try (FileChannel other =
            FileChannel.open(
                out.resolve(".halve.lock"), StandardOpenOption.CREATE, StandardOpenOption.WRITE);
        FileLock lock = other.lock()) {
      assertThat(lock.isValid()).isTrue();
      for (String command : List.of("train", "tutorial")) {
        assertRefused(
            halve(
                command, "--model", good, "--train", questions, "--eval", questions, "--out", out),
            "another run is at work in " + out);
      }
    }
    // What a killed run leaves is in nobody's way, and goes.
    CommandLineRun run =
        halve(
            "train",
            "--model",
            good,
            "--train",
            questions,
            "--max-length",
            64,
            "--max-steps",
            1,
            "--device",
            "cpu",
            "--out",
            out);
    assertThat(run.exitCode()).as(run.err()).isZero();
    assertThat(out.resolve(".halve.lock")).doesNotExist();
  }

  @Test
  @EnabledOnOs(value = OS.LINUX, disabledReason = "/dev/full is Linux's")
  void anAnswerThatDoesNotFit() throws Exception {
    List<String> command = new ArrayList<>(List.of("bash", "-c", "\"$@\" >/dev/full", "-"));
    command.addAll(HalveProcess.command("inspect", good));
    Process process = new ProcessBuilder(command).start();
    String err = new String(process.getErrorStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor()).as(err).isEqualTo(2);
    assertThat(err).contains("halve: cannot write the answer to standard output: No space left");
    command.set(2, "\"$@\" | head -n 1");
    assertThat(new ProcessBuilder(command).start().getInputStream().readAllBytes()).isNotEmpty();
  }

  @Test
  void aJvmWithoutTheVectorApi() throws Exception {
    List<String> command = HalveProcess.command("doctor");
    command.removeIf(argument -> argument.startsWith("--add-modules"));
    Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
    String output = new String(process.getInputStream().readAllBytes(), StandardCharsets.UTF_8);
    assertThat(process.waitFor()).as(output).isEqualTo(2);
    assertThat(output.lines())
        .singleElement()
        .asString()
        .contains("--add-modules=jdk.incubator.vector");
  }

  @Test
  void settingsThatMakeNoSense() {
    assertRefused(
        halve("train", "--model", good, "--train", questions, "--out", "x", "--batch-size", 0),
        "batch size",
        "0");
    assertRefused(
        halve("prune", "--model", good, "--out", "x", "--sparse-block-shape", "four"), "1x4");
    assertRefused(halve("convert", "--model", good, "--to", "3:4", "--out", "x"), "2:4", "3:4");
    assertRefused(halve("bench", "--model", good, "--modes", "fast"), "eager or compiled", "fast");
    assertRefused(halve("bench", "--model", good, "--peer", "torch"), "onnxruntime", "torch");
    assertRefused(halve("bench", "--model", good, "--seq", 129), "129", "128 positions", "seq");
    assertRefused(
        halve("bench", "--model", good, "--training", "--seq", 129), "129", "128 positions", "seq");
    assertRefused(halve("quickstart", "--in", 10), "multiple of 4", "10");
    assertRefused(
        halve("eval", "--model", good, "--eval", questions, "--data", "squad"), "--data squad");
  }
}
