package dev.halve.recipe;

/**
 * The questions that a model is asked, and how.
 *
 * @param data read only for its evaluation questions
 */
public record Questions(
    DataSettings data, FeatureSettings features, EvaluationSettings evaluation) {}
