/**
 * Question answering from text to scores: SQuAD files, tokens with offsets, features, answers read
 * off the logits, exact match and F1. What comes in works on texts and plain arrays and needs no
 * model; running one is the engine's, the order of the steps the recipe's.
 */
package dev.halve.qa;
