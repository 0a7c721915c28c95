/**
 * Pruning methods: each chooses which elements of a weight stay, some also change those that do. A
 * layer is known only as a {@link dev.halve.core.sparsify.Sparsifiable}; running a model to collect
 * activations belongs to the rooms above.
 */
package dev.halve.core.sparsify;
