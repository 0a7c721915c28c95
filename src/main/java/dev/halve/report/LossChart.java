package dev.halve.report;

import dev.halve.core.HalveException;
import java.awt.BasicStroke;
import java.awt.Color;
import java.util.List;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.style.Styler;
import org.knowm.xchart.style.markers.SeriesMarkers;

/** The loss curves as a picture. */
final class LossChart {
  private static final Color[] COLOURS = {new Color(0x64748b), new Color(0x0d9488)};

  private LossChart() {}

  /**
   * A {@link Picture}.
   *
   * @throws HalveException if the machine has no fonts to draw with
   */
  static byte[] png(List<LossCurve> curves) {
    return Picture.of("Training loss", "step", "loss", chart -> addLines(chart, curves));
  }

  private static void addLines(XYChart chart, List<LossCurve> curves) {
    chart.getStyler().setLegendPosition(Styler.LegendPosition.InsideNE);
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
  }
}
