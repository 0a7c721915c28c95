package dev.halve.recipe;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import dev.halve.report.Report;
import dev.halve.report.Results;
import dev.halve.report.SeedSummary;
import dev.halve.report.SeedSummary.Measure;
import java.nio.file.Path;
import java.util.List;
import org.assertj.core.data.Offset;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class SeedRunsTest {
  @TempDir Path folder;

  private static Measure measure(SeedSummary summary, String name) {
    return summary.measures().stream()
        .filter(each -> each.name().equals(name))
        .findFirst()
        .orElseThrow();
  }

  @Test
  void everySeedHasItsRunAndTheSummaryTheirMeanAndSpread() {
    TinyFolder.write(folder);
    TutorialSettings settings = TinyFolder.settings(folder, 3600);
    Path out = folder.resolve("out");
    SeedSummary summary = SeedRuns.run(settings, 2, out, false, Progress.NONE);
    assertThat(summary.seeds()).containsExactly(4L, 5L);
    Results first = Report.read(out.resolve("seed-4"));
    Results second = Report.read(out.resolve("seed-5"));
    assertThat(first.loss()).isNotEqualTo(second.loss());
    Measure dense = measure(summary, "Dense, F1");
    assertThat(dense.values()).containsExactly(first.dense().f1(), second.dense().f1());
    assertThat(dense.mean())
        .isCloseTo((first.dense().f1() + second.dense().f1()) / 2, Offset.offset(1e-9));
    double half = (first.dense().f1() - second.dense().f1()) / 2;
    assertThat(dense.standardDeviation())
        .isCloseTo(Math.abs(half) * Math.sqrt(2), Offset.offset(1e-9));
    assertThat(measure(summary, "2:4 less dense, F1").values())
        .containsExactly(
            first.sparse().f1() - first.dense().f1(), second.sparse().f1() - second.dense().f1());
    assertThat(Json.MAPPER.treeToValue(Json.read(out.resolve("seeds.json")), SeedSummary.class))
        .isEqualTo(summary);
    assertThat(summary.table()).contains("Seeds      4, 5", "2:4 less dense, F1", "std. dev.");
    // A finished seed is not run again.
    assertThat(SeedRuns.run(settings, 2, out, true, Progress.NONE)).isEqualTo(summary);
  }

  @Test
  void oneSeedHasNoSpread() {
    TinyFolder.write(folder);
    SeedSummary summary =
        SeedRuns.run(
            TinyFolder.settings(folder, 3600), 1, folder.resolve("out"), false, Progress.NONE);
    assertThat(summary.measures())
        .allSatisfy(each -> {
          assertThat(each.standardDeviation()).isZero();
          assertThat(each.values()).isEqualTo(List.of(each.mean()));
        });
  }

  @Test
  void noSeedsAreRefused() {
    assertThatThrownBy(
            () -> SeedRuns.run(TinyFolder.settings(folder, 3600), 0, folder, false, Progress.NONE))
        .isInstanceOf(HalveException.class)
        .hasMessage("seeds must be 1 or more, found 0");
  }
}
