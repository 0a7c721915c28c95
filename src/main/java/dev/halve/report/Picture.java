package dev.halve.report;

import dev.halve.core.HalveException;
import java.awt.Color;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.util.Locale;
import java.util.function.Consumer;
import org.knowm.xchart.BitmapEncoder;
import org.knowm.xchart.XYChart;
import org.knowm.xchart.XYChartBuilder;
import org.knowm.xchart.style.XYStyler;

/** A chart as a PNG of 1200 x 675 pixels: what all of them have in common. */
final class Picture {
  private static final Color PALE = new Color(0xe2e8f0);

  private Picture() {}

  /**
   * @param content adds the lines
   * @throws HalveException if the machine has no fonts to draw with
   */
  static byte[] of(String title, String x, String y, Consumer<XYChart> content) {
    try (ByteArrayOutputStream png = new ByteArrayOutputStream()) {
      XYChart chart =
          new XYChartBuilder()
              .width(1200)
              .height(675)
              .title(title)
              .xAxisTitle(x)
              .yAxisTitle(y)
              .build();
      XYStyler styler = chart.getStyler();
      styler.setLocale(Locale.ROOT);
      styler.setChartBackgroundColor(Color.WHITE);
      styler.setPlotBorderVisible(false);
      styler.setPlotGridLinesColor(PALE);
      styler.setLegendBorderColor(PALE);
      styler.setChartPadding(24);
      content.accept(chart);
      BitmapEncoder.saveBitmap(chart, png, BitmapEncoder.BitmapFormat.PNG);
      return png.toByteArray();
    } catch (IOException impossible) {
      throw new UncheckedIOException(impossible);
    } catch (RuntimeException | InternalError | LinkageError noFonts) {
      // The JDK draws text with the system's fontconfig, which a bare container lacks.
      throw new HalveException(
          "Java finds no fonts to draw with (%s); install fontconfig and a font"
              .formatted(noFonts.getMessage()),
          noFonts);
    }
  }
}
