package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.within;
import static org.assertj.core.api.Assertions.withinPercentage;

import dev.halve.core.Tensor;
import dev.halve.core.io.Safetensors;
import dev.halve.core.sparsify.NOfM;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.Device;
import dev.halve.engine.Devices;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.ReferenceBert;
import dev.halve.engine.TrainingGpu;
import dev.halve.qa.QaFeature;
import dev.halve.qa.QaFeatures;
import dev.halve.report.MethodComparison;
import dev.halve.report.SensitivityRanking;
import dev.halve.report.SensitivityRow;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Sensitivities and comparisons, on a model of two layers. */
class SensitivityTest {
  private static final FeatureSettings FEATURES = new FeatureSettings(24, 0);

  @TempDir static Path folder;
  private static String model;
  private static Questions questions;
  private static CalibrationSettings text;

  @BeforeAll
  static void write() {
    TinyFolder.write(folder);
    model = folder.resolve("model").toString();
    questions =
        new Questions(
            DataSettings.files(null, folder.resolve("eval.json")),
            FEATURES,
            EvaluationSettings.DEFAULT);
    text = new CalibrationSettings(folder.resolve("train.json"), 16, 24, 0);
  }

  private static PruningPlan plan(PruningMethod method, double budget) {
    return new PruningPlan(
        method,
        PruningSettings.SEMI_STRUCTURED,
        NOfM.TWO_OF_FOUR,
        false,
        0.01,
        text,
        List.of(),
        budget,
        0);
  }

  @Test
  void aLayersLossIsThatOfTheModelInWhichItAloneIsPruned() {
    SensitivityRanking ranking =
        Sensitivity.rank(model, "cpu", plan(PruningMethod.MAGNITUDE, 0), questions, Progress.NONE);
    assertThat(ranking.layers()).hasSize(12);
    assertThat(ranking.layers()).isSortedAccordingTo((a, b) -> Double.compare(b.loss(), a.loss()));
    assertThat(ranking.questions()).isEqualTo(12);
    try (Device device = Devices.open("cpu");
        LoadedModel loaded = LoadedModel.open(model, device, 0, Progress.NONE)) {
      assertThat(ranking.denseLoss()).isCloseTo(loss(loaded), within(1e-5));
      for (Linear linear : loaded.model().bert().linears()) {
        SensitivityRow row =
            ranking.layers().stream()
                .filter(each -> each.layer().equals(linear.name()))
                .findFirst()
                .orElseThrow();
        try (Arena arena = Arena.ofConfined()) {
          Tensor dense = linear.weight(arena);
          Tensor pruned = linear.weight(arena);
          Tensor mask =
              WeightNormSparsifier.mask(arena, dense, WeightNormSparsifier.Config.SEMI_STRUCTURED);
          for (long i = 0; i < pruned.elements(); i++) {
            if (mask.segment().get(ValueLayout.JAVA_BYTE, i) == 0) {
              pruned.setFloat(i, 0);
            }
          }
          linear.setWeight(pruned);
          assertThat(row.loss()).as(linear.name()).isCloseTo(loss(loaded), within(1e-5));
          assertThat(row.elements()).isEqualTo(dense.elements());
          linear.setWeight(dense);
        }
      }
    }
  }

  /** In double precision, over the evaluation questions. */
  private static double loss(LoadedModel loaded) {
    QaFeatures rows =
        QaFeatures.of(
            loaded.tokenizer(),
            QuestionData.eval(questions.data(), Progress.NONE).examples(),
            FEATURES.maxLength(),
            FEATURES.docStride());
    List<QaFeature> features = rows.features();
    PackedBatch batch =
        PackedBatch.of(
            features.stream().map(QaFeature::inputIds).toArray(int[][]::new),
            features.stream().map(QaFeature::tokenTypeIds).toArray(int[][]::new));
    return new ReferenceBert(loaded.model().config(), loaded.model().parameters(), batch, false, 0)
        .loss(
            features.stream().mapToInt(QaFeature::startPosition).toArray(),
            features.stream().mapToInt(QaFeature::endPosition).toArray());
  }

  @Test
  void withoutQuestionsLayersAreRankedByTheirProducts() {
    SensitivityRanking ranking =
        Sensitivity.rank(model, "cpu", plan(PruningMethod.SPARSEGPT, 0), null, Progress.NONE);
    assertThat(ranking.layers())
        .hasSize(12)
        .isSortedAccordingTo(
            (a, b) -> Double.compare(b.reconstructionError(), a.reconstructionError()))
        .allMatch(row -> row.loss() == null && row.reconstructionError() > 0);
    byte[] png = ranking.png();
    assertThat(png).startsWith(0x89, 'P', 'N', 'G').hasSizeGreaterThan(10_000);
  }

  @Test
  void aBudgetGoesToTheLayersThatSufferMostAsFarAsItReaches() {
    List<SensitivityRow> rows =
        List.of(row("a", 100, 0.1), row("b", 400, 0.9), row("c", 300, 0.5), row("d", 200, 0.4));
    assertThat(Sensitivity.withinBudget(rows, 0.5)).containsExactly("b", "a");
    assertThat(Sensitivity.withinBudget(rows, 0.31)).containsExactly("c");
    assertThat(Sensitivity.withinBudget(rows, 0.05)).isEmpty();
  }

  private static SensitivityRow row(String layer, long elements, double error) {
    return new SensitivityRow(layer, elements, error, null, null);
  }

  @Test
  void aBudgetKeepsThatShareDense() {
    Path out = folder.resolve("budget");
    Steps.Pruned pruned = Steps.prune(model, plan(PruningMethod.WANDA, 0.3), out, Progress.NONE);
    double dense = pruned.layers().stream().filter(SensitivityTest::isDense).count();
    assertThat(pruned.keptDense()).hasSize((int) dense).isNotEmpty();
    assertThat(pruned.sparsity()).isBetween(0.35, 0.4);
    String mostSensitive =
        Sensitivity.rank(model, "cpu", plan(PruningMethod.WANDA, 0), null, Progress.NONE)
            .layers()
            .getFirst()
            .layer();
    assertThat(pruned.keptDense().getFirst()).isEqualTo(mostSensitive);
    try (Safetensors before = Safetensors.open(folder.resolve("model"));
        Safetensors after = Safetensors.open(out)) {
      String name = mostSensitive + ".weight";
      assertThat(after.tensor(name).segment().mismatch(before.tensor(name).segment()))
          .isEqualTo(-1);
    }
  }

  private static boolean isDense(dev.halve.report.LayerSparsity layer) {
    return layer.pattern().equals("dense");
  }

  @Test
  void aComparisonGivesEveryMethodTheDenseModel() throws IOException {
    byte[] before = Files.readAllBytes(folder.resolve("model/model.safetensors"));
    List<PruningPlan> plans = new ArrayList<>();
    for (PruningMethod method : PruningMethod.values()) {
      plans.add(plan(method, 0));
      plans.add(plan(method, 0).with(method, true));
    }
    MethodComparison comparison = Comparison.compare(model, "cpu", plans, questions, Progress.NONE);
    // Backwards each method meets what the others left; it must have been the same dense model.
    MethodComparison backwards =
        Comparison.compare(model, "cpu", plans.reversed(), questions, Progress.NONE);
    assertThat(comparison.methods()).hasSize(8);
    for (int i = 0; i < 8; i++) {
      MethodComparison.Method method = comparison.methods().get(i);
      MethodComparison.Method again = backwards.methods().get(7 - i);
      assertThat(again.reconstructionError()).isEqualTo(method.reconstructionError());
      assertThat(again.score()).isEqualTo(method.score());
      assertThat(method.sparsity()).isEqualTo(0.5);
      assertThat(method.reconstructionError()).hasSize(12);
      assertThat(comparison.text()).contains(plans.get(i).label());
    }
    assertThat(mean(comparison, 6)).as("transposable").isGreaterThan(mean(comparison, 0));
    assertThat(mean(comparison, 4)).as("sparsegpt").isLessThan(mean(comparison, 2));
    assertThat(mean(comparison, 2)).as("wanda").isLessThan(mean(comparison, 0));
    assertThat(Files.readAllBytes(folder.resolve("model/model.safetensors"))).isEqualTo(before);
  }

  @Test
  void aGpuMeasuresWhatTheCpuDoes() {
    TrainingGpu.open().close();
    // As wide as heads must be on a GPU.
    Path wide = folder.resolve("wide");
    TinyFolder.write(wide, 64);
    String model = wide.resolve("model").toString();
    List<PruningPlan> plans =
        List.of(
            plan(PruningMethod.MAGNITUDE, 0),
            plan(PruningMethod.WANDA, 0).with(PruningMethod.WANDA, true),
            plan(PruningMethod.SPARSEGPT, 0));
    MethodComparison cpu = Comparison.compare(model, "cpu", plans, questions, Progress.NONE);
    MethodComparison gpu = Comparison.compare(model, "cuda:0", plans, questions, Progress.NONE);
    for (int i = 0; i < plans.size(); i++) {
      // Activations have 8 bits there, which moves an error by a share of itself.
      assertThat(mean(gpu, i))
          .as(plans.get(i).label())
          .isCloseTo(mean(cpu, i), withinPercentage(5));
      assertThat(gpu.methods().get(i).score()).isNotNull();
    }
    SensitivityRanking ranking =
        Sensitivity.rank(model, "cuda:0", plans.getFirst(), questions, Progress.NONE);
    // Magnitudes are the same bits anywhere, and so are the layers that each of them leaves.
    for (SensitivityRow row : ranking.layers()) {
      assertThat(row.reconstructionError())
          .as(row.layer())
          .isEqualTo(gpu.methods().getFirst().reconstructionError().get(row.layer()));
    }
    SensitivityRanking onCpu =
        Sensitivity.rank(model, "cpu", plans.getFirst(), questions, Progress.NONE);
    assertThat(ranking.denseLoss()).isCloseTo(onCpu.denseLoss(), within(0.02));
  }

  private static double mean(MethodComparison comparison, int method) {
    return comparison.methods().get(method).reconstructionError().values().stream()
        .mapToDouble(Double::doubleValue)
        .average()
        .orElseThrow();
  }
}
