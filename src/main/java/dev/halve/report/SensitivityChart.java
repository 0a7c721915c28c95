package dev.halve.report;

import java.awt.BasicStroke;
import java.awt.Color;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
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

  static byte[] png(SensitivityRanking ranking) {
    XYChart chart =
        new XYChartBuilder()
            .width(1200)
            .height(675)
            .title("Sensitivity to pruning by " + ranking.method())
            .xAxisTitle("layer")
            .yAxisTitle(
                ranking.questions() > 0 ? "increase of the loss" : "reconstruction error, %")
            .build();
    chart.getStyler().setLegendPosition(Styler.LegendPosition.OutsideE);
    chart.getStyler().setChartBackgroundColor(Color.WHITE);
    chart.getStyler().setPlotBorderVisible(false);
    chart.getStyler().setPlotGridLinesColor(new Color(0xe2e8f0));
    chart.getStyler().setLegendBorderColor(new Color(0xe2e8f0));
    chart.getStyler().setChartPadding(24);
    series(ranking)
        .forEach((kind, values) -> {
          List<Integer> layers = new ArrayList<>(values.keySet());
          chart
              .addSeries(kind, layers, new ArrayList<>(values.values()))
              .setMarker(SeriesMarkers.CIRCLE)
              .setLineStyle(new BasicStroke(2));
        });
    try (ByteArrayOutputStream png = new ByteArrayOutputStream()) {
      BitmapEncoder.saveBitmap(chart, png, BitmapEncoder.BitmapFormat.PNG);
      return png.toByteArray();
    } catch (IOException impossible) {
      throw new UncheckedIOException(impossible);
    }
  }
}
