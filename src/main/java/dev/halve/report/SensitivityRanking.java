package dev.halve.report;

import java.util.Comparator;
import java.util.List;
import java.util.Locale;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * The linear layers of a model by how much it suffers when one of them alone is pruned.
 *
 * @param method of the pruning
 * @param questions that were asked; 0 where layers were judged by their products alone
 * @param denseLoss of the model before; null where no questions were asked
 * @param denseScore likewise
 * @param layers the most sensitive first: by the loss where questions were asked, else by the
 *     reconstruction error
 */
@JsonNaming(SnakeCaseStrategy.class)
public record SensitivityRanking(
    String model,
    String method,
    int questions,
    Double denseLoss,
    Score denseScore,
    List<SensitivityRow> layers) {
  public SensitivityRanking {
    Comparator<SensitivityRow> mildest =
        questions > 0
            ? Comparator.comparingDouble(SensitivityRow::loss)
            : Comparator.comparingDouble(SensitivityRow::reconstructionError);
    layers = layers.stream().sorted(mildest.reversed()).toList();
  }

  /** The ranking as a table. */
  public String text() {
    StringBuilder text = new StringBuilder();
    text.append(model).append(", one layer at a time pruned by ").append(method).append('\n');
    text.append("%-4s%-52s%10s".formatted("", "layer", "error, %"));
    text.append(questions == 0 ? "\n" : "%9s%8s\n".formatted("loss", "F1"));
    if (questions > 0) {
      text.append(
          String.format(
              Locale.ROOT,
              "%-4s%-52s%10s%9.4f%8.2f%n",
              "",
              "dense",
              "",
              denseLoss,
              denseScore.f1()));
    }
    int rank = 0;
    for (SensitivityRow row : layers) {
      text.append("%-4s%-52s".formatted(++rank, row.layer()));
      text.append(String.format(Locale.ROOT, "%10.3f", 100 * row.reconstructionError()));
      if (questions > 0) {
        text.append(String.format(Locale.ROOT, "%9.4f%8.2f", row.loss(), row.score().f1()));
      }
      text.append('\n');
    }
    return text.toString();
  }

  /**
   * The ranking as a picture, a PNG of 1200 x 675 pixels.
   *
   * @throws dev.halve.core.HalveException if the machine has no fonts to draw with
   */
  public byte[] png() {
    return SensitivityChart.png(this);
  }
}
