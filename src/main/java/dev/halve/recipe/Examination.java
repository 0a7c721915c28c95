package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.qa.Example;
import dev.halve.qa.QaFeatures;
import dev.halve.qa.SquadDataset;
import java.util.List;

/**
 * Questions that models of one tokenizer are asked, or one model over and over while its weights
 * change.
 */
final class Examination {
  private final SquadDataset questions;
  private final FeatureSettings features;
  private final EvaluationSettings evaluation;
  private QaFeatures rows;

  /** Reads the questions. */
  Examination(Questions asked, Progress progress) {
    this.questions = QuestionData.eval(asked.data(), progress);
    this.features = asked.features();
    this.evaluation = asked.evaluation();
  }

  List<Example> questions() {
    return questions.examples();
  }

  /**
   * Cuts the questions into rows.
   *
   * @throws HalveException if a row is longer than the model takes
   */
  void prepare(LoadedModel loaded) {
    if (rows == null) {
      rows = features.rows(loaded.tokenizer(), questions.examples());
      Evaluator.requireFit(rows, loaded.model().config());
    }
  }

  /**
   * Asks all of them.
   *
   * @param stage its name, for the listener
   * @throws StoppedException if the listener asked for it
   */
  Evaluator.Outcome ask(LoadedModel loaded, String stage, Progress progress) {
    prepare(loaded);
    return Evaluator.evaluate(loaded.model(), questions, rows, evaluation, stage, progress);
  }
}
