package dev.halve.report;

import java.awt.BasicStroke;
import java.awt.Color;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.List;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
import org.knowm.xchart.style.Styler;
import org.knowm.xchart.style.markers.SeriesMarkers;

/** The loss curves as a picture. */
final class LossChart {
  private static final Color[] COLOURS = {new Color(0x64748b), new Color(0x0d9488)};

  private LossChart() {}

  /** A PNG of 1200 x 675 pixels. Needs the fonts of the machine. */
  static byte[] png(List<LossCurve> curves) {
    XYChart chart =
        new XYChartBuilder()
            .width(1200)
            .height(675)
            .title("Training loss")
            .xAxisTitle("step")
            .yAxisTitle("loss")
            .build();
    chart.getStyler().setLegendPosition(Styler.LegendPosition.InsideNE);
    chart.getStyler().setChartBackgroundColor(Color.WHITE);
    chart.getStyler().setPlotBorderVisible(false);
    chart.getStyler().setPlotGridLinesColor(new Color(0xe2e8f0));
    chart.getStyler().setLegendBorderColor(new Color(0xe2e8f0));
    chart.getStyler().setChartPadding(24);
    chart.getStyler().setYAxisMin(0.0);
    for (int i = 0; i < curves.size(); i++) {
      List<LossCurve.Point> points = curves.get(i).points();
      if (points.isEmpty()) {
        continue;
      }
      chart
          .addSeries(
              curves.get(i).stage(),
              points.stream().mapToDouble(LossCurve.Point::step).toArray(),
              points.stream().mapToDouble(LossCurve.Point::loss).toArray())
          .setMarker(SeriesMarkers.NONE)
          .setLineStyle(new BasicStroke(3))
          .setLineColor(COLOURS[i % COLOURS.length]);
    }
    try (ByteArrayOutputStream png = new ByteArrayOutputStream()) {
      BitmapEncoder.saveBitmap(chart, png, BitmapEncoder.BitmapFormat.PNG);
      return png.toByteArray();
    } catch (IOException impossible) {
      throw new UncheckedIOException(impossible);
    }
  }
}
