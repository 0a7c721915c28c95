package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.io.Safetensors;
import dev.halve.core.io.SafetensorsWriter;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.report.LossCurve;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.attribute.FileTime;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class StepsTest {
  private static final FeatureSettings FEATURES = new FeatureSettings(24, 0);
  private static final PruningPlan MAGNITUDE =
      PruningPlan.magnitude(PruningSettings.SEMI_STRUCTURED);

  @TempDir static Path shared;
  @TempDir Path folder;

  private static DataSettings data;
  private static String trained;
  private static Steps.Trained training;

  @BeforeAll
  static void trainOnce() {
    TinyFolder.write(shared);
    data = DataSettings.files(shared.resolve("train.json"), shared.resolve("eval.json"));
    trained = shared.resolve("trained").toString();
    training = train(shared.resolve("model").toString(), 400, Path.of(trained), Progress.NONE);
  }

  private static Steps.Trained train(String model, int steps, Path out, Progress progress) {
    TrainingSettings settings =
        new TrainingSettings(
            5e-3, TrainingSettings.Schedule.LINEAR, 0, 8, 1, steps, 1.0, 0, 1, 10, 3600);
    return Steps.train(model, "cpu", plan(settings), out, false, progress);
  }

  private static TrainingPlan plan(TrainingSettings settings) {
    return new TrainingPlan(data, FEATURES, settings);
  }

  private static Steps.Evaluated evaluate(String model, DataSettings data, Path predictions) {
    Questions asked = new Questions(data, FEATURES, EvaluationSettings.DEFAULT);
    return Steps.evaluate(model, "cpu", asked, predictions, Progress.NONE);
  }

  private static Path prune(String model, Path out) {
    return Steps.prune(model, MAGNITUDE, out, Progress.NONE).folder();
  }

  private static Steps.Converted convert(String model, Steps.Form form, Path out) {
    return Steps.convert(model, form, out, Progress.NONE);
  }

  @Test
  void theDenseModelTeachesItsPrunedCopyOnTextWithoutLabels() throws IOException {
    Path pruned = prune(trained, folder.resolve("pruned"));
    Path text = Files.writeString(folder.resolve("text"), "the city arl has two towers .\n\n");
    TrainingSettings settings =
        new TrainingSettings(
            3e-3, TrainingSettings.Schedule.LINEAR, 0, 5, 1, 0, 1.0, 0, 1, 5, 3600, 1, 2);
    TrainingPlan plan =
        new TrainingPlan(
            data,
            FEATURES,
            settings,
            new RecoverySettings(0, 1, 0, 2, MaskSettings.FIXED),
            trained,
            text);
    Path out = folder.resolve("taught");
    Steps.Trained taught = Steps.train(pruned.toString(), "cpu", plan, out, false, Progress.NONE);
    // 24 questions and one row of text, five a step.
    assertThat(taught.steps()).isEqualTo(5);
    assertThat(taught.sparsity()).isEqualTo(0.5);
    assertThat(taught.scores()).extracting(LossCurve.ScorePoint::step).containsExactly(2, 4);
    assertThat(taught.scores().getLast().f1()).isBetween(0.0, 100.0);
    assertThatThrownBy(
            () -> new TrainingPlan(data, FEATURES, settings, RecoverySettings.PLAIN, null, text))
        .isInstanceOf(HalveException.class)
        .hasMessage("text without labels needs a dense model; name the teacher");
  }

  @Test
  void trainingLearnsTheQuestionsItSees() {
    assertThat(training.steps()).isEqualTo(400);
    assertThat(training.loss()).hasSize(40);
    assertThat(training.loss().getLast().loss()).isLessThan(training.loss().getFirst().loss() / 2);
    assertThat(training.sparsity()).isLessThan(0.01);
    DataSettings seen = DataSettings.files(null, shared.resolve("train.json"));
    Path predictions = folder.resolve("predictions.json");
    Steps.Evaluated evaluated = evaluate(trained, seen, predictions);
    assertThat(evaluated.total()).isEqualTo(24);
    assertThat(evaluated.exactMatch()).isGreaterThan(80);
    Steps.Scored scored = Steps.score(shared.resolve("train.json"), predictions);
    assertThat(scored.exactMatch()).isEqualTo(evaluated.exactMatch());
    assertThat(scored.f1()).isEqualTo(evaluated.f1());
    assertThat(scored.missing()).isEmpty();
  }

  @Test
  void aMissingHeadIsSaidAloud() {
    List<String> notes = new ArrayList<>();
    Progress listener =
        new Progress() {
          @Override
          public void note(String line) {
            notes.add(line);
          }
        };
    train(shared.resolve("model").toString(), 1, folder, listener);
    assertThat(notes).singleElement().asString().contains("no question-answering head");
  }

  @Test
  void pruningLeavesTwoOfFourAndTrainingKeepsThem() throws IOException {
    Path pruned = prune(trained, folder.resolve("pruned"));
    Steps.Trained again = train(pruned.toString(), 5, folder.resolve("retrained"), Progress.NONE);
    assertThat(again.sparsity()).isEqualTo(0.5);
    // The compressed form of a pruned model trains to the same weights.
    convert(pruned.toString(), Steps.Form.SPARSE_SEMI_STRUCTURED, folder.resolve("sparse"));
    train(folder.resolve("sparse").toString(), 5, folder.resolve("again"), Progress.NONE);
    assertThat(
            Files.mismatch(
                folder.resolve("retrained/model.safetensors"),
                folder.resolve("again/model.safetensors")))
        .isEqualTo(-1);
  }

  @Test
  void conversionThereAndBackKeepsEveryByte() throws IOException {
    Path pruned = prune(trained, folder.resolve("pruned"));
    Steps.Converted sparse =
        convert(pruned.toString(), Steps.Form.SPARSE_SEMI_STRUCTURED, folder.resolve("sparse"));
    assertThat(sparse.leftDense()).isEmpty();
    assertThat(sparse.fromBytes() - sparse.toBytes()).isEqualTo(16_384 - 16_384 * 17 / 32);
    convert(folder.resolve("sparse").toString(), Steps.Form.DENSE, folder.resolve("dense"));
    assertThat(
            Files.mismatch(
                pruned.resolve("model.safetensors"), folder.resolve("dense/model.safetensors")))
        .isEqualTo(-1);
    assertThat(evaluate(pruned.toString(), data, null).f1())
        .isEqualTo(evaluate(folder.resolve("sparse").toString(), data, null).f1());
  }

  @Test
  void aDenseModelStaysDenseAndIsNamed() {
    Steps.Converted converted =
        convert(trained, Steps.Form.SPARSE_SEMI_STRUCTURED, folder.resolve("sparse"));
    assertThat(converted.leftDense())
        .hasSize(12)
        .contains("bert.encoder.layer.0.attention.self.query.weight");
    assertThat(converted.toBytes()).isEqualTo(converted.fromBytes());
  }

  @Test
  void aLayerWhoseShapeCannotBeTwoOfFourIsNamedAndLeftDense() {
    TinyFolder.write(folder, 18);
    Steps.Pruned pruned =
        Steps.prune(
            folder.resolve("model").toString(), MAGNITUDE, folder.resolve("pruned"), Progress.NONE);
    assertThat(pruned.leftDense())
        .hasSize(10)
        .contains("bert.encoder.layer.1.intermediate.dense.weight");
    assertThat(pruned.layers())
        .allMatch(layer ->
            layer.pattern().equals(pruned.leftDense().contains(layer.name()) ? "dense" : "2:4"));
    Steps.Converted sparse =
        convert(
            folder.resolve("pruned").toString(),
            Steps.Form.SPARSE_SEMI_STRUCTURED,
            folder.resolve("sparse"));
    assertThat(sparse.leftDense()).isEqualTo(pruned.leftDense());
    assertThat(sparse.toBytes()).isLessThan(sparse.fromBytes());
  }

  @Test
  void aFinishedTrainingThatIsResumedIsNotDoneAgain() throws IOException {
    TrainingSettings settings =
        new TrainingSettings(
            5e-3, TrainingSettings.Schedule.LINEAR, 0, 8, 1, 4, 1.0, 0, 1, 10, 3600);
    Steps.Trained first = Steps.train(trained, "cpu", plan(settings), folder, true, Progress.NONE);
    FileTime written = Files.getLastModifiedTime(folder.resolve("model.safetensors"));
    Steps.Trained again = Steps.train(trained, "cpu", plan(settings), folder, true, Progress.NONE);
    assertThat(again).isEqualTo(first);
    assertThat(Files.getLastModifiedTime(folder.resolve("model.safetensors"))).isEqualTo(written);
    Steps.Trained anew = Steps.train(trained, "cpu", plan(settings), folder, false, Progress.NONE);
    assertThat(anew.loss()).isEqualTo(first.loss());
    assertThat(Files.getLastModifiedTime(folder.resolve("model.safetensors")))
        .isNotEqualTo(written);
  }

  @Test
  void headsAndWhateverElseIsStoredComeAlongUnchanged() throws IOException {
    Path classifier = folder.resolve("classifier");
    Path model = shared.resolve("model");
    Files.createDirectories(classifier);
    Files.copy(model.resolve("vocab.txt"), classifier.resolve("vocab.txt"));
    Files.writeString(
        classifier.resolve("config.json"),
        Files.readString(model.resolve("config.json"))
            .replace("BertModel", "BertForSequenceClassification"));
    try (Safetensors before = Safetensors.open(model);
        Arena arena = Arena.ofConfined()) {
      SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
      before.names().forEach(name -> tensors.put(name, before.tensor(name)));
      Tensor head = Tensor.of(arena, new float[48], 3, 16);
      for (long i = 0; i < 48; i++) {
        head.setFloat(i, i - 7.5f);
      }
      tensors.put("classifier.weight", head);
      tensors.put("classifier.bias", Tensor.of(arena, new float[] {1, 2, 3}, 3));
      SafetensorsWriter.write(
          classifier.resolve("model.safetensors"), tensors, Map.of("format", "pt"));
    }
    Path pruned = folder.resolve("pruned");
    List<String> notes = new ArrayList<>();
    Progress listener =
        new Progress() {
          @Override
          public void note(String line) {
            notes.add(line);
          }
        };
    Steps.prune(
        classifier.toString(), MAGNITUDE.with(PruningMethod.MAGNITUDE, true), pruned, listener);
    assertThat(notes).isEmpty();
    assertThat(Files.readString(pruned.resolve("config.json")))
        .contains("BertForSequenceClassification");
    try (Safetensors before = Safetensors.open(classifier);
        Safetensors after = Safetensors.open(pruned)) {
      assertThat(after.names()).containsExactlyInAnyOrderElementsOf(before.names());
      for (String name : before.names()) {
        Tensor is = after.tensor(name);
        Tensor was = before.tensor(name);
        if (name.contains("encoder") && name.endsWith("dense.weight")
            || name.matches(".*(query|key|value).weight")) {
          assertThat(SparsityPattern.of(is).toString()).as(name).isEqualTo("2:4");
        } else if (!name.matches(".*(value|intermediate.dense).bias")) {
          assertThat(is.segment().mismatch(was.segment())).as(name).isEqualTo(-1);
        }
      }
    }
    // Of an encoder without a head nothing is made up either.
    Steps.prune(model.toString(), MAGNITUDE, folder.resolve("bare"), listener);
    try (Safetensors bare = Safetensors.open(folder.resolve("bare"))) {
      assertThat(bare.names()).noneMatch(name -> name.startsWith("qa_outputs"));
    }
  }

  @Test
  void otherPatternsPruneToo() {
    PruningSettings oneOfTwo = new PruningSettings(1.0, 1, 2, 1, 1);
    Steps.Pruned pruned =
        Steps.prune(
            trained, PruningPlan.magnitude(oneOfTwo), folder.resolve("pruned"), Progress.NONE);
    assertThat(pruned.sparsity()).isEqualTo(0.5);
    assertThat(pruned.layers()).allMatch(layer -> layer.pattern().equals("1:2"));
    train(folder.resolve("pruned").toString(), 3, folder.resolve("trained"), Progress.NONE);
    try (Safetensors before = Safetensors.open(folder.resolve("pruned"));
        Safetensors after = Safetensors.open(folder.resolve("trained"))) {
      Tensor weight = after.tensor("bert.encoder.layer.1.output.dense.weight");
      Tensor was = before.tensor("bert.encoder.layer.1.output.dense.weight");
      assertThat(SparsityPattern.of(weight)).isEqualTo(SparsityPattern.of(was));
      assertThat(weight.segment().mismatch(was.segment())).isGreaterThanOrEqualTo(0);
    }
  }

  @Test
  void predictionPointsIntoItsContext() {
    String context = "the city bex has nine gates and two wells .";
    List<Steps.Answer> answers =
        Steps.predict(
            trained,
            "cpu",
            "how many gates has bex ?",
            context,
            FEATURES,
            EvaluationSettings.DEFAULT,
            Progress.NONE);
    Steps.Answer best = answers.getFirst();
    assertThat(context.substring(best.start(), best.end())).isEqualTo(best.text());
    assertThat(best.text()).isNotBlank();
  }

  @Test
  void aTrainingIsGoneOnWithOnlyAsItBegan() {
    Progress impatient =
        new Progress() {
          private int asked;

          @Override
          public boolean stopRequested() {
            return ++asked > 2;
          }
        };
    assertThatThrownBy(() -> train(trained, 9, folder, impatient))
        .isInstanceOf(StoppedException.class)
        .hasMessageContaining("step 3 of 9");
    assertThatThrownBy(() -> train(trained, 9, folder, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("holds an unfinished training; go on with it with --resume");
    TrainingSettings other =
        new TrainingSettings(
            1e-3, TrainingSettings.Schedule.LINEAR, 0, 8, 1, 9, 1.0, 0, 1, 10, 3600);
    assertThatThrownBy(() -> Steps.train(trained, "cpu", plan(other), folder, true, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("another training (settings.learning_rate was 0.005, now 0.001)");
    TrainingPlan otherRows =
        new TrainingPlan(
            DataSettings.files(shared.resolve("eval.json"), null),
            FEATURES,
            new TrainingSettings(
                5e-3, TrainingSettings.Schedule.LINEAR, 0, 8, 1, 9, 1.0, 0, 1, 10, 3600));
    assertThatThrownBy(() -> Steps.train(trained, "cpu", otherRows, folder, true, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("rows was ");
  }

  @Test
  void whatIsMissingIsNamed() {
    assertThatThrownBy(() -> train(folder.resolve("nowhere").toString(), 1, folder, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("nowhere");
    assertThatThrownBy(() -> evaluate(trained, DataSettings.files(null, null), null))
        .isInstanceOf(HalveException.class)
        .hasMessage("no eval questions: name a file with --eval");
  }
}
