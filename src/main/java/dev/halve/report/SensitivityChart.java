package dev.halve.report;

import dev.halve.core.HalveException;
import java.awt.BasicStroke;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.style.Styler;
import org.knowm.xchart.style.markers.SeriesMarkers;

/** Sensitivities over the depth of the encoder, one line a kind of linear layer. */
final class SensitivityChart {
  private static final Pattern NAME = Pattern.compile(".*layer\\.(\\d+)\\.(.+)");

  private SensitivityChart() {}

  /** By the kind of layer the values by depth: what the lines of the chart are. */
  static Map<String, Map<Integer, Double>> series(SensitivityRanking ranking) {
    Map<String, Map<Integer, Double>> series = new LinkedHashMap<>();
    for (SensitivityRow row : ranking.layers()) {
      Matcher name = NAME.matcher(row.layer());
      if (name.matches()) {
        double value =
            ranking.questions() > 0
                ? row.loss() - ranking.denseLoss()
                : 100 * row.reconstructionError();
        series
            .computeIfAbsent(name.group(2), kind -> new TreeMap<>())
            .put(Integer.parseInt(name.group(1)), value);
      }
    }
    return series;
  }

  /**
   * A {@link Picture}.
   *
   * @throws HalveException if the machine has no fonts to draw with
   */
  static byte[] png(SensitivityRanking ranking) {
    return Picture.of(
        "Sensitivity to pruning by " + ranking.method(),
        "layer",
        ranking.questions() > 0 ? "increase of the loss" : "reconstruction error, %",
        chart -> addLines(chart, ranking));
  }

  private static void addLines(XYChart chart, SensitivityRanking ranking) {
    chart.getStyler().setLegendPosition(Styler.LegendPosition.OutsideE);
    series(ranking)
        .forEach((kind, values) -> {
          List<Integer> layers = new ArrayList<>(values.keySet());
          chart
              .addSeries(kind, layers, new ArrayList<>(values.values()))
              .setMarker(SeriesMarkers.CIRCLE)
              .setLineStyle(new BasicStroke(2));
        });
  }
}
