package dev.halve.report;

import java.util.List;
import java.util.Locale;

/** The loss curves as an inline SVG that takes its colours from the page. */
final class LossFigure {
  private static final int WIDTH = 720;
  private static final int HEIGHT = 300;
  private static final int LEFT = 46;
  private static final int RIGHT = 14;
  private static final int TOP = 14;
  private static final int BOTTOM = 40;
  private static final int TICKS = 4;

  private final double maxStep;
  private final double maxLoss;
  private final StringBuilder svg = new StringBuilder();

  private LossFigure(List<LossCurve> curves) {
    this.maxStep =
        curves.stream()
            .flatMap(curve -> curve.points().stream())
            .mapToInt(LossCurve.Point::step)
            .max()
            .orElse(1);
    this.maxLoss =
        ceiling(
            curves.stream()
                .flatMap(curve -> curve.points().stream())
                .mapToDouble(LossCurve.Point::loss)
                .filter(Double::isFinite)
                .max()
                .orElse(1));
  }

  static String of(List<LossCurve> curves) {
    LossFigure figure = new LossFigure(curves);
    figure.svg.append(
        "<svg class=\"chart\" viewBox=\"0 0 %s %s\" role=\"img\" aria-label=\"Training loss by step\">\n"
            .formatted(WIDTH, HEIGHT));
    figure.grid();
    for (int i = 0; i < curves.size(); i++) {
      figure.curve(curves.get(i), i % 2);
    }
    return figure.svg.append("</svg>\n").toString();
  }

  private void grid() {
    for (int tick = 0; tick <= TICKS; tick++) {
      double loss = maxLoss * tick / TICKS;
      double y = y(loss);
      svg.append(
          "<line class=\"grid\" x1=\"%s\" x2=\"%s\" y1=\"%s\" y2=\"%s\"/>"
              .formatted(LEFT, WIDTH - RIGHT, number(y), number(y)));
      svg.append(
          "<text x=\"%s\" y=\"%s\" text-anchor=\"end\">%s</text>\n"
              .formatted(LEFT - 8, number(y + 4), number(loss)));
      long step = Math.round(maxStep * tick / TICKS);
      svg.append(
          "<text x=\"%s\" y=\"%s\" text-anchor=\"%s\">%s</text>\n"
              .formatted(
                  number(x((double) step)),
                  HEIGHT - BOTTOM + 20,
                  tick == TICKS ? "end" : "middle",
                  Numbers.count(step)));
    }
    svg.append(
        "<text x=\"%s\" y=\"%s\" text-anchor=\"middle\">step</text>\n"
            .formatted((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4));
  }

  private void curve(LossCurve curve, int series) {
    StringBuilder points = new StringBuilder();
    StringBuilder marks = new StringBuilder();
    for (LossCurve.Point point : curve.points()) {
      if (!Double.isFinite(point.loss())) {
        continue;
      }
      String x = number(x(point.step()));
      String y = number(y(point.loss()));
      points.append(x).append(',').append(y).append(' ');
      marks.append(
          "<circle class=\"mark\" cx=\"%s\" cy=\"%s\" r=\"6\"><title>%s, step %s: %s</title></circle>\n"
              .formatted(
                  x, y, Html.escape(curve.stage()), point.step(), Numbers.loss(point.loss())));
    }
    svg.append(
        "<polyline class=\"series series-%s\" points=\"%s\"/>\n"
            .formatted(series, points.toString().strip()));
    svg.append(marks);
  }

  private double x(double step) {
    return LEFT + (WIDTH - LEFT - RIGHT) * step / maxStep;
  }

  private double y(double loss) {
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - loss / maxLoss);
  }

  /** The next number above that four ticks divide well. */
  private static double ceiling(double value) {
    double power = Math.pow(10, Math.floor(Math.log10(Math.max(value, 1e-6))));
    for (double factor : new double[] {1, 2, 4, 6, 8}) {
      if (value <= factor * power) {
        return factor * power;
      }
    }
    return 10 * power;
  }

  private static String number(double value) {
    String text = String.format(Locale.ROOT, "%.2f", value);
    return text.contains(".") ? text.replaceAll("0+$", "").replaceAll("\\.$", "") : text;
  }
}
