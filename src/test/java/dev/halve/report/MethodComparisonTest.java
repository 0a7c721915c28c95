package dev.halve.report;

import static org.assertj.core.api.Assertions.assertThat;

import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class MethodComparisonTest {
  @ParameterizedTest
  @CsvSource({
    "bert.encoder.layer.%d.attention.self.value, bert.encoder.layer.%d.attention.output.dense,"
        + " bert.encoder.layer.%d.intermediate.dense, bert.encoder.layer.%d.output.dense",
    "distilbert.transformer.layer.%d.attention.v_lin,"
        + " distilbert.transformer.layer.%d.attention.out_lin,"
        + " distilbert.transformer.layer.%d.ffn.lin1, distilbert.transformer.layer.%d.ffn.lin2"
  })
  void errorsAreMeansOverTheKindsOfLayersAndOverTheLayers(
      String value, String attention, String inner, String output) {
    Map<String, Double> errors = new LinkedHashMap<>();
    List<String> kinds = List.of(value, attention, inner, output);
    for (int layer = 0; layer < 12; layer++) {
      for (int kind = 0; kind < 4; kind++) {
        errors.put(kinds.get(kind).formatted(layer), (0.1 * kind + 0.01 * layer) / 100);
      }
    }
    MethodComparison.Method method =
        new MethodComparison.Method("wanda", 1.25, 0.5, new Score(10, 20.5), errors);
    String text =
        new MethodComparison("m", 8, 1000, 300, new Score(30, 40), List.of(method)).text();
    // 0.055 is the mean of 0.00 to 0.11; halves round up.
    assertThat(text)
        .contains("m, calibrated on 8 rows (1,000 tokens), asked 300 questions")
        .containsPattern("(?m)^dense +30\\.00 +40\\.00$")
        .containsPattern(
            "(?m)^wanda +0\\.0[56] +0\\.1[56] +0\\.2[56] +0\\.3[56] +0\\.2[01] +10\\.00 +20\\.50"
                + " +1\\.[23]$")
        .containsPattern("(?m)^0 +0\\.15$")
        .containsPattern("(?m)^1 +0\\.16$")
        .containsPattern("(?m)^11 +0\\.26$");
  }
}
