package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import dev.halve.recipe.TrainingSettings.Schedule;
import java.nio.file.Path;
import java.util.List;
import org.assertj.core.api.ThrowableAssert.ThrowingCallable;
import org.junit.jupiter.api.Test;

class SettingsTest {
  private static void refuses(ThrowingCallable settings, String message) {
    assertThatThrownBy(settings).isInstanceOf(HalveException.class).hasMessage(message);
  }

  private static TrainingSettings training(double learningRate, int batch, double decay) {
    return new TrainingSettings(
        learningRate, Schedule.CONSTANT, 0, batch, 1, 0, 1.0, decay, 0, 50, 60);
  }

  private static TrainingSettings accumulating(int batches, int evalSteps) {
    return new TrainingSettings(
        1e-3, Schedule.CONSTANT, 0, 1, 1, 0, 1.0, 0, 0, 50, 60, batches, evalSteps);
  }

  @Test
  void theBestPresetLearnsFromTheDenseModelItMade() {
    TutorialSettings best = TutorialSettings.preset("best");
    assertThat(best.fineTune().learningRate()).isEqualTo(1.5e-4);
    assertThat(best.fineTune().epochs()).isEqualTo(3);
    assertThat(best.recovery().distils()).isTrue();
    PruningPlan plan = best.plan(Path.of("train.json"));
    assertThat(plan.label()).isEqualTo("sparsegpt");
    assertThat(plan.calibration().file()).hasFileName("train.json");
    TutorialSettings seeded = best.withSeed(7);
    assertThat(seeded.fineTune().seed()).isEqualTo(7);
    assertThat(seeded.retrain().seed()).isEqualTo(7);
    assertThat(seeded.withSeed(0)).isEqualTo(best);
  }

  @Test
  void badSettingsAreNamedWithWhatWasExpected() {
    refuses(() -> training(0, 1, 0), "learning rate must be above 0, at most 1, found 0.0");
    refuses(
        () -> training(Double.NaN, 1, 0), "learning rate must be above 0, at most 1, found NaN");
    refuses(() -> training(1e-3, 0, 0), "batch size must be 1 or more, found 0");
    refuses(() -> training(1e-3, 1, 1), "weight decay must be 0 or more, below 1, found 1.0");
    refuses(() -> new FeatureSettings(7, 0), "max length must be 8 or more, found 7");
    refuses(
        () -> new FeatureSettings(64, 64),
        "doc stride must be 0 or more, below max length, found 64");
    refuses(() -> new PruningSettings(1.5, 1, 4, 2, 2), "sparsity level must be 0 to 1, found 1.5");
    refuses(
        () -> new PruningSettings(1, 1, 4, 5, 2),
        "zeros per block must be 0 to the size of a block, found 5");
    refuses(() -> new PruningSettings(1, 1, 4, 2, 3), "norm must be 1 or 2, found 3");
    refuses(() -> new EvaluationSettings(1, 0, 30), "n best must be 1 or more, found 0");
    refuses(
        () -> new LatencySettings(List.of(4, 0), 8, 1, 1, 1),
        "batch sizes must be 1 or more each, found [4, 0]");
    refuses(
        () -> new DataSettings("sqaud", null, null, 0, 0),
        "data must be synthetic, squad or files, found 'sqaud'");
    refuses(() -> accumulating(0, 0), "gradient accumulation steps must be 1 or more, found 0");
    refuses(() -> accumulating(1, -1), "eval steps must be 0 (never) or more, found -1");
    refuses(() -> TutorialSettings.preset("slow"), "'slow' is no preset; use quick, full or best");
  }

  @Test
  void settingsSurviveBeingWrittenAndRead() {
    TutorialSettings settings = TinyFolder.settings(Path.of("/data"), 60);
    String json = Json.compact(settings);
    assertThat(json).contains("\"train\":\"/data/train.json\"", "\"learning_rate\":0.003");
    assertThat(Json.MAPPER.readValue(json, TutorialSettings.class)).isEqualTo(settings);
    assertThat(Json.MAPPER.readValue(Json.compact(TutorialSettings.FULL), TutorialSettings.class))
        .isEqualTo(TutorialSettings.FULL);
  }

  private static TutorialSettings reconstructing(DataSettings data, MaskSettings masks) {
    TutorialSettings full = TutorialSettings.FULL;
    return new TutorialSettings(
        full.preset(),
        full.model(),
        full.device(),
        data,
        full.features(),
        full.fineTune(),
        full.pruning(),
        full.retrain(),
        RecoverySettings.PLAIN.withMasks(masks),
        full.evaluation(),
        full.latency(),
        full.method(),
        false,
        new ReconstructionSettings(100, 1e-3));
  }

  @Test
  void aReconstructionCalibratesOnTrainingQuestions() {
    DataSettings files = DataSettings.files(Path.of("/data/train.json"), Path.of("/data/dev.json"));
    TutorialSettings settings = reconstructing(files, MaskSettings.FIXED);
    PruningPlan plan = settings.plan(Path.of("/data/train.json"));
    assertThat(plan.calibration().file()).isEqualTo(Path.of("/data/train.json"));
    assertThat(plan.method()).isEqualTo(PruningMethod.MAGNITUDE);
    assertThat(Json.MAPPER.readValue(Json.compact(settings), TutorialSettings.class))
        .isEqualTo(settings);
    refuses(
        () -> reconstructing(DataSettings.SYNTHETIC, MaskSettings.FIXED),
        "reconstruction calibrates on training questions from a file; name it with --train");
    MaskSettings decaying =
        new MaskSettings(0, 6e-5, null, 1, 0.5, PruningSettings.SEMI_STRUCTURED);
    refuses(
        () -> reconstructing(files, decaying),
        "masks that are chosen in training start from the dense model, not from a reconstructed"
            + " one; leave one of them out");
    refuses(
        () -> new ReconstructionSettings(0, 1), "reconstruction steps must be 1 or more, found 0");
  }

  @Test
  void theFullPresetIsTheTutorials() {
    TrainingSettings training = TutorialSettings.FULL.fineTune();
    assertThat(training.learningRate()).isEqualTo(5e-5);
    assertThat(training.schedule()).isEqualTo(Schedule.CONSTANT);
    assertThat(training.batchSize()).isEqualTo(32);
    assertThat(training.epochs()).isEqualTo(1);
    assertThat(training.maxGradNorm()).isEqualTo(1.0);
    assertThat(training.weightDecay()).isZero();
    assertThat(TutorialSettings.FULL.features()).isEqualTo(new FeatureSettings(384, 0));
    assertThat(TutorialSettings.FULL.pruning()).isEqualTo(new PruningSettings(1.0, 1, 4, 2, 2));
    assertThat(TutorialSettings.FULL.evaluation().nBest()).isEqualTo(20);
    assertThat(TutorialSettings.FULL.evaluation().maxAnswerTokens()).isEqualTo(30);
    assertThat(TutorialSettings.FULL.latency().batchSizes()).containsExactly(4, 16, 64, 256);
  }

  @Test
  void percentilesLieBetweenRanks() {
    double[] times = {1, 2, 3, 4, 5};
    assertThat(Latency.percentile(times, 0.5)).isEqualTo(3);
    assertThat(Latency.percentile(times, 0.1)).isEqualTo(1.4);
    assertThat(Latency.percentile(times, 0.9)).isEqualTo(4.6);
    assertThat(Latency.percentile(new double[] {7}, 0.9)).isEqualTo(7);
  }
}
