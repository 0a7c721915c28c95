package dev.halve.report;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.awt.image.BufferedImage;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Locale;
import java.util.regex.Pattern;
import javax.imageio.ImageIO;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;
import tools.jackson.databind.JsonNode;

class ReportTest {
  private static final Results RESULTS = SampleResults.of(2);

  @TempDir Path folder;

  @Test
  void resultsAreWrittenUnderTheirNamesAndReadBack() {
    Report.write(folder, RESULTS);
    JsonNode json = Json.read(folder.resolve("results.json"));
    for (String stage : new String[] {"dense", "pruned", "retrained", "sparse"}) {
      assertThat(json.at("/" + stage + "/exact_match").isNumber()).isTrue();
      assertThat(json.at("/" + stage + "/f1").isNumber()).isTrue();
    }
    assertThat(json.at("/retrained/f1").asDouble()).isEqualTo(77.75);
    assertThat(json.get("latency").get(0).propertyNames())
        .containsExactlyInAnyOrder(
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
    assertThat(json.at("/size/sparse_linear").asLong()).isEqualTo(23_625_000);
    assertThat(json.at("/settings/fine_tune/batch_size").asInt()).isEqualTo(16);
    assertThat(Report.read(folder)).isEqualTo(RESULTS);
  }

  @Test
  void lossGoesIntoCsvAndPicture() throws IOException {
    assertThat(Report.write(folder, RESULTS)).isEmpty();
    assertThat(folder.resolve("loss.csv")).content().startsWith("stage,step,loss\nfine-tune,5,");
    assertThat(Files.readAllLines(folder.resolve("loss.csv"))).hasSize(1 + 2 * 16);
    BufferedImage picture = ImageIO.read(folder.resolve("loss.png").toFile());
    assertThat(picture.getWidth()).isEqualTo(1200);
    assertThat(pixels(picture, 0x64748b)).isGreaterThan(500);
    assertThat(pixels(picture, 0x0d9488)).isGreaterThan(500);
  }

  private static int pixels(BufferedImage picture, int colour) {
    int count = 0;
    for (int x = 0; x < picture.getWidth(); x++) {
      for (int y = 0; y < picture.getHeight(); y++) {
        count += (picture.getRGB(x, y) & 0xffffff) == colour ? 1 : 0;
      }
    }
    return count;
  }

  @Test
  void aRunWithoutLoggedLossStillGetsItsPages() {
    Results silent = SampleResults.withLoss(RESULTS, List.of());
    assertThat(Report.write(folder, silent)).isEmpty();
    assertThat(folder.resolve("loss.png")).isNotEmptyFile();
    assertThat(folder.resolve("loss.csv")).content().isEqualTo("stage,step,loss\n");
  }

  @Test
  void tableComparesDenseWithSparse() {
    String table = Report.table(RESULTS);
    assertThat(table.lines()).allSatisfy(line -> assertThat(line.length()).isLessThan(80));
    assertThat(table)
        .containsPattern("Exact match +71.25 +68.00 +-3.25")
        .containsPattern("F1 +80.50 +77.75 +-2.75")
        .containsPattern("Batch 1 × 128, eager +10.0 ms +8.00 ms +1.25×")
        .containsPattern("Batch 1 × 128, compiled +9.00 ms +4.50 ms +2.00×")
        .containsPattern("Batch 16 × 128, compiled +130 ms +140 ms +0.93×")
        .containsPattern("Linear weights, file +42.0 MB +23.6 MB +0.56×")
        .containsPattern("Pruned, not retrained +20.00 +31.13");
  }

  @Test
  void pageHoldsEverythingAndReachesForNothing() throws IOException {
    Report.write(folder, RESULTS);
    String page = Files.readString(folder.resolve("report.html"));
    assertThat(page)
        .contains("all-MiniLM-L6-v2", "77.75", "2.00×", "Batch 16 × 128, compiled")
        .contains("<polyline", "fine-tune", "retrain")
        .contains("attention output", "50.00% over all", "bert.odd.weight")
        .contains("Who founded &lt;b&gt;Orlan&lt;/b&gt; &amp; when?", "Ada Voss / Voss")
        .contains("no answer", "learning rate", "1:23 min")
        .contains("prefers-color-scheme: dark", "name=\"viewport\"")
        .doesNotContain("<script", "<link", "@import", "url(");
    assertThat(Pattern.compile("(src|href|srcset|action)\\s*=").matcher(page).find()).isFalse();
  }

  @Test
  void pageIsWellFormed() throws IOException {
    Report.write(folder, RESULTS);
    String page = Files.readString(folder.resolve("report.html"));
    assertThat(Markup.unbalanced(page)).isEmpty();
  }

  @ParameterizedTest
  @ValueSource(strings = {"ar-EG", "de-DE", "tr-TR"})
  void pagesAndTablesAreTheSameWhateverTheLocale(String tag) throws IOException {
    Report.write(folder.resolve("here"), RESULTS);
    String table = Report.table(RESULTS);
    Locale usual = Locale.getDefault();
    Locale.setDefault(Locale.forLanguageTag(tag));
    try {
      Report.write(folder.resolve("there"), RESULTS);
      assertThat(Report.table(RESULTS)).isEqualTo(table);
    } finally {
      Locale.setDefault(usual);
    }
    for (String file : List.of("results.json", "loss.csv", "report.html")) {
      assertThat(folder.resolve("there").resolve(file))
          .hasSameTextualContentAs(folder.resolve("here").resolve(file));
    }
  }

  @Test
  void aFolderThatCannotBeWrittenIsNamed() throws IOException {
    Path file = Files.writeString(folder.resolve("file"), "in the way");
    assertThatThrownBy(() -> Report.write(file, RESULTS))
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith("cannot write " + file.resolve("results.json"));
  }

  @Test
  void otherJsonIsNotTakenForResults() throws IOException {
    Files.writeString(folder.resolve("results.json"), "{\"dense\": 3}");
    assertThatThrownBy(() -> Report.read(folder))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("results.json: not the results of a tutorial run");
    assertThatThrownBy(() -> Report.read(folder.resolve("nowhere")))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("no such file");
  }
}
