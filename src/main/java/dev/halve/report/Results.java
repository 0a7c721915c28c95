package dev.halve.report;

import java.util.List;
import java.util.Map;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/**
 * All that a run of the whole recipe found: the content of {@code results.json}.
 *
 * @param model name or folder of the pretrained model
 * @param data the questions: {@code synthetic}, {@code squad} or the files
 * @param trainQuestions how many questions it was trained on
 * @param evalQuestions how many questions the scores are over
 * @param device what it ran on
 * @param dense scores of the fine-tuned model
 * @param pruned scores right after pruning
 * @param retrained scores after retraining under the mask
 * @param sparse scores of the compressed model
 * @param sameAnswers on how many evaluation questions the compressed and the retrained model give
 *     the same text
 * @param latency the forward pass by batch size
 * @param layers every encoder weight after pruning
 * @param leftDense weights that could not be pruned
 * @param loss one curve for each training
 * @param examples some evaluation questions
 * @param seconds wall time of each stage
 * @param settings everything that the run was told
 */
@JsonNaming(SnakeCaseStrategy.class)
public record Results(
    String model,
    String data,
    int trainQuestions,
    int evalQuestions,
    String device,
    Score dense,
    Score pruned,
    Score retrained,
    Score sparse,
    int sameAnswers,
    List<LatencyRow> latency,
    ModelSize size,
    List<LayerSparsity> layers,
    List<String> leftDense,
    List<LossCurve> loss,
    List<Example> examples,
    Map<String, Double> seconds,
    Map<String, Object> settings) {}
