package dev.halve.report;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.Collectors;

/** {@code report.html}: one page with everything in it, which needs no network and no script. */
final class HtmlPage {
  private static final Pattern ENCODER_WEIGHT =
      Pattern.compile(".*encoder\\.layer\\.(\\d+)\\.(.+)\\.weight");

  private final Results results;
  private final StringBuilder page = new StringBuilder();

  private HtmlPage(Results results) {
    this.results = results;
  }

  static String of(Results results) {
    HtmlPage html = new HtmlPage(results);
    html.head();
    html.tiles();
    html.stages();
    html.table();
    html.loss();
    html.layers();
    html.examples();
    html.latency();
    html.settings();
    html.page.append("</main>\n</body>\n</html>\n");
    return html.page.toString();
  }

  private void head() {
    page.append(
        """
        <!DOCTYPE html>
        <html lang="en">
        <head>
        <meta charset="utf-8">
        <meta name="viewport" content="width=device-width, initial-scale=1">
        <meta name="color-scheme" content="light dark">
        <title>%s, half the weight</title>
        <style>
        %s</style>
        </head>
        <body>
        <main>
        <header>
        <p class="brand">Halve</p>
        <h1>%s, half the weight</h1>
        <p class="lead">Fine-tuned, pruned to 2:4, retrained under the mask, compressed. Questions: %s, \
        %s to learn from and %s to be asked. Measured on %s.</p>
        </header>
        """
            .formatted(
                Html.escape(results.model()),
                stylesheet(),
                Html.escape(results.model()),
                Html.escape(results.data()),
                Numbers.count(results.trainQuestions()),
                Numbers.count(results.evalQuestions()),
                Html.escape(results.device())));
  }

  private void tiles() {
    page.append("<section class=\"tiles\" aria-label=\"In short\">\n");
    tile(
        "F1, dense to 2:4",
        Numbers.score(results.sparse().f1()),
        "%s from %s"
            .formatted(
                Numbers.signed(results.sparse().f1() - results.dense().f1()),
                Numbers.score(results.dense().f1())));
    fastest()
        .ifPresent(row ->
            tile("Best speed-up over dense", row.change(), row.metric() + ": " + row.sparse()));
    ModelSize size = results.size();
    tile(
        "Linear weights on disk",
        Numbers.times((double) size.sparseLinear() / size.denseLinear()),
        Numbers.bytes(size.denseLinear()) + " to " + Numbers.bytes(size.sparseLinear()));
    tile(
        "Same answers when compressed",
        Numbers.count(results.sameAnswers()),
        "of " + Numbers.count(results.evalQuestions()) + ", against the masked model");
    page.append("</section>\n");
  }

  private Optional<MeasureTable.Row> fastest() {
    return MeasureTable.rows(results).stream()
        .filter(row -> row.group() == MeasureTable.Group.TIMES)
        .max(Comparator.comparingDouble(MeasureTable.Row::amount));
  }

  private void tile(String label, String value, String detail) {
    page.append(
        "<div class=\"tile\"><p class=\"label\">%s</p><p class=\"value\">%s</p><p class=\"detail\">%s</p></div>\n"
            .formatted(Html.escape(label), Html.escape(value), Html.escape(detail)));
  }

  private void stages() {
    page.append("<section>\n<h2>What pruning takes, and what retraining gives back</h2>\n");
    page.append("<div class=\"bars\">\n");
    Map<String, Score> stages = new LinkedHashMap<>();
    stages.put("Dense", results.dense());
    stages.put("Pruned", results.pruned());
    stages.put("Retrained", results.retrained());
    stages.put("Compressed", results.sparse());
    stages.forEach((stage, score) -> {
      page.append("<div class=\"stage\"><p class=\"name\">%s</p>\n".formatted(stage));
      bar("F1", score.f1(), "strong");
      bar("EM", score.exactMatch(), "soft");
      page.append("</div>\n");
    });
    page.append("</div>\n</section>\n");
  }

  private void bar(String label, double percent, String kind) {
    String value = Numbers.score(percent);
    page.append(
        "<div class=\"bar\"><span>%s</span><i class=\"%s\" style=\"--share:%s%%\"></i><b>%s</b></div>\n"
            .formatted(label, kind, value, value));
  }

  private void table() {
    page.append("<section>\n<h2>Dense against 2:4</h2>\n<div class=\"scroll\"><table>\n");
    Map<MeasureTable.Group, List<MeasureTable.Row>> groups =
        MeasureTable.rows(results).stream()
            .collect(
                Collectors.groupingBy(
                    MeasureTable.Row::group, LinkedHashMap::new, Collectors.toList()));
    groups.forEach((group, rows) -> {
      page.append(
          "<thead><tr><th scope=\"col\">%s</th><th>Dense</th><th>2:4</th><th>%s</th></tr></thead>\n<tbody>\n"
              .formatted(group.title(), group.change()));
      for (MeasureTable.Row row : rows) {
        page.append(
            "<tr><th scope=\"row\">%s</th><td>%s</td><td>%s</td><td class=\"%s\">%s</td></tr>\n"
                .formatted(
                    Html.escape(row.metric()),
                    row.dense(),
                    row.sparse(),
                    row.better() ? "gain" : "loss",
                    row.change()));
      }
      page.append("</tbody>\n");
    });
    page.append("</table></div>\n</section>\n");
  }

  private void loss() {
    page.append("<section>\n<h2>Training loss</h2>\n<p class=\"legend\">");
    for (int i = 0; i < results.loss().size(); i++) {
      page.append(
          "<span class=\"key series-%s\"></span>%s "
              .formatted(i % 2, Html.escape(results.loss().get(i).stage())));
    }
    page.append("</p>\n").append(LossFigure.of(results.loss()));
    scores();
    page.append("</section>\n");
  }

  /** What the model scored while it was trained. */
  private void scores() {
    if (results.loss().stream().allMatch(curve -> curve.scores().isEmpty())) {
      return;
    }
    page.append("<div class=\"scroll\"><table>\n<thead><tr><th scope=\"col\">Scored while");
    page.append(" training</th><th>Step</th><th>Exact match</th><th>F1</th></tr></thead>\n<tbody>");
    for (LossCurve curve : results.loss()) {
      for (LossCurve.ScorePoint point : curve.scores()) {
        page.append(
            "<tr><th scope=\"row\">%s</th><td>%s</td><td>%s</td><td>%s</td></tr>\n"
                .formatted(
                    Html.escape(curve.stage()),
                    Numbers.count(point.step()),
                    Numbers.score(point.exactMatch()),
                    Numbers.score(point.f1())));
      }
    }
    page.append("</tbody></table></div>\n");
  }

  private void layers() {
    page.append("<section>\n<h2>Sparsity by layer</h2>\n");
    page.append("<p class=\"legend\">Share of zeros in every encoder weight: ");
    page.append(Numbers.score(100 * LayerSparsity.overall(results.layers())))
        .append("% over all.</p>\n");
    Map<String, Map<String, LayerSparsity>> byLayer = new LinkedHashMap<>();
    List<String> modules =
        results.layers().stream().map(layer -> place(layer.name())[1]).distinct().toList();
    for (LayerSparsity layer : results.layers()) {
      String[] place = place(layer.name());
      byLayer.computeIfAbsent(place[0], _ -> new LinkedHashMap<>()).put(place[1], layer);
    }
    page.append("<div class=\"scroll\"><table class=\"layers\">\n<thead><tr><th>Layer</th>");
    modules.forEach(module -> page.append("<th>").append(shortName(module)).append("</th>"));
    page.append("</tr></thead>\n<tbody>\n");
    byLayer.forEach((layer, weights) -> {
      page.append("<tr><th scope=\"row\">").append(Html.escape(layer)).append("</th>");
      modules.forEach(module -> cell(weights.get(module)));
      page.append("</tr>\n");
    });
    page.append("</tbody></table></div>\n");
    if (!results.leftDense().isEmpty()) {
      page.append("<p>Left dense, since their shape cannot be 2:4: ");
      page.append(Html.escape(String.join(", ", results.leftDense()))).append("</p>\n");
    }
    page.append("</section>\n");
  }

  private void cell(LayerSparsity layer) {
    if (layer == null) {
      page.append("<td></td>");
      return;
    }
    String share = Numbers.score(100 * layer.sparsity());
    page.append(
        "<td class=\"pattern\" style=\"--share:%s%%\" title=\"%s [%s, %s]: %s%% zeros, %s to %s\"><b>%s</b><i></i></td>"
            .formatted(
                share,
                Html.escape(layer.name()),
                layer.out(),
                layer.in(),
                share,
                Numbers.bytes(layer.denseBytes()),
                Numbers.bytes(layer.compressedBytes()),
                Html.escape(layer.pattern())));
  }

  /** A weight's layer and its module within. */
  private static String[] place(String name) {
    Matcher matcher = ENCODER_WEIGHT.matcher(name);
    return matcher.matches()
        ? new String[] {matcher.group(1), matcher.group(2)}
        : new String[] {name, "weight"};
  }

  private static String shortName(String module) {
    return Html.escape(
        switch (module) {
          case "attention.output.dense" -> "attention output";
          case "intermediate.dense" -> "intermediate";
          case "output.dense" -> "output";
          default -> module.substring(module.lastIndexOf('.') + 1);
        });
  }

  private void examples() {
    page.append(
        "<section>\n<h2>The same questions, asked of both</h2>\n<div class=\"examples\">\n");
    for (Example example : results.examples()) {
      page.append("<article>\n<h3>")
          .append(Html.escape(example.question()))
          .append("</h3>\n<dl>\n");
      answer("Right", String.join(" / ", example.answers()), "");
      answer("Dense", example.dense(), example.denseExact() ? "exact" : "off");
      answer("2:4", example.sparse(), example.sparseExact() ? "exact" : "off");
      page.append("</dl>\n<details><summary>Context</summary><p>");
      page.append(Html.escape(example.context())).append("</p></details>\n</article>\n");
    }
    page.append("</div>\n</section>\n");
  }

  private void answer(String who, String text, String kind) {
    String mark =
        switch (kind) {
          case "exact" -> " <span class=\"mark\" title=\"exact match\">✓</span>";
          case "off" -> " <span class=\"mark\" title=\"no exact match\">✗</span>";
          default -> "";
        };
    String shown = text.isEmpty() ? "<em>no answer</em>" : Html.escape(text);
    page.append(
        "<div class=\"%s\"><dt>%s</dt><dd>%s%s</dd></div>\n".formatted(kind, who, shown, mark));
  }

  private void latency() {
    page.append("<section>\n<details><summary>Every time, with its spread</summary>\n");
    page.append("<div class=\"scroll\"><table>\n<thead><tr><th>Engine</th><th>Weights</th>");
    page.append("<th>Mode</th><th>Batch</th><th>Tokens</th><th>p10</th><th>Median</th>");
    page.append("<th>p90</th><th>Tokens a second</th></tr></thead>\n<tbody>\n");
    for (LatencyRow row : results.latency()) {
      page.append(
          "<tr><th scope=\"row\">%s</th><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td><td>%s</td></tr>\n"
              .formatted(
                  Html.escape(row.engine()),
                  Html.escape(row.weights()),
                  Html.escape(row.mode()),
                  row.batch(),
                  Numbers.count(row.tokens()),
                  Numbers.milliseconds(row.msP10()),
                  Numbers.milliseconds(row.msP50()),
                  Numbers.milliseconds(row.msP90()),
                  Numbers.count(Math.round(row.tokensPerS()))));
    }
    page.append("</tbody></table></div>\n</details>\n</section>\n");
  }

  private void settings() {
    page.append("<section>\n<h2>Settings</h2>\n<div class=\"settings\">\n");
    Map<String, Object> single = new LinkedHashMap<>();
    results
        .settings()
        .forEach((name, value) -> {
          if (!(value instanceof Map)) {
            single.put(name, value);
          }
        });
    settingsGroup("run", single);
    results
        .settings()
        .forEach((name, value) -> {
          if (value instanceof Map<?, ?> group) {
            settingsGroup(name, group);
          }
        });
    Map<String, Object> seconds = new LinkedHashMap<>();
    results.seconds().forEach((stage, time) -> seconds.put(stage, Numbers.seconds(time)));
    settingsGroup("time taken", seconds);
    page.append("</div>\n</section>\n");
  }

  private void settingsGroup(String name, Map<?, ?> values) {
    page.append("<div><h3>").append(Html.escape(name.replace('_', ' '))).append("</h3>\n<dl>\n");
    values.forEach((key, value) ->
        page.append(
            "<div><dt>%s</dt><dd>%s</dd></div>\n"
                .formatted(
                    Html.escape(String.valueOf(key).replace('_', ' ')),
                    value == null ? "–" : Html.escape(value))));
    page.append("</dl></div>\n");
  }

  private static String stylesheet() {
    try (InputStream css = HtmlPage.class.getResourceAsStream("report.css")) {
      return new String(css.readAllBytes(), StandardCharsets.UTF_8);
    } catch (IOException unreadable) {
      throw new UncheckedIOException(unreadable);
    }
  }
}
