package dev.halve.recipe;

/**
 * One row of tokens with its answer.
 *
 * @param tokenIds {@code [tokens]}
 * @param typeIds {@code [tokens]}, 0 question, 1 context
 * @param start position of the answer's first token; 0 where the row does not hold the answer
 * @param end position of its last token; 0 likewise. Both are -1 where nothing is known: the row
 *     then counts nothing in the labels' loss
 */
public record TrainingRow(int[] tokenIds, int[] typeIds, int start, int end) {}
