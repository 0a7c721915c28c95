/**
 * Compressed weights: the N:M pattern of a tensor, the 2:4 format with its 2-bit metadata, and its
 * conversions to the layouts of other libraries. What chooses the zeros belongs in {@code
 * sparsify}, what multiplies with them in the devices.
 */
package dev.halve.core.sparse;
