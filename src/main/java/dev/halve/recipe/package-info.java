/**
 * The recipe: fine-tune, prune, retrain, compress, measure; its steps alone and as one run that can
 * be interrupted and resumed. Prints nothing: callers listen to {@link dev.halve.recipe.Progress}.
 * dev.halve.qa, report, engine and core may come in.
 */
package dev.halve.recipe;
