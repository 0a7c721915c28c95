package dev.halve.recipe;

import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.qa.QaFeatures;
import dev.halve.qa.SquadDataset;
import dev.halve.qa.Tokenizer;

/** Questions that a model is asked over and over while its weights change. */
final class Examination {
  private final SquadDataset questions;
  private final QaFeatures rows;
  private final EvaluationSettings evaluation;

  Examination(Tokenizer tokenizer, Questions asked, Progress progress) {
    this.questions = QuestionData.eval(asked.data(), progress);
    this.evaluation = asked.evaluation();
    this.rows =
        QaFeatures.of(
            tokenizer,
            questions.examples(),
            asked.features().maxLength(),
            asked.features().docStride());
  }

  int count() {
    return questions.examples().size();
  }

  /**
   * @param name of the model, for the listener
   */
  Evaluator.Outcome ask(BertForQuestionAnswering model, String name, Progress progress) {
    return Evaluator.evaluate(model, questions, rows, evaluation, "evaluate " + name, progress);
  }
}
