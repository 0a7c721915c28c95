/**
 * What is true of tensors without running a model: element types, shapes, off-heap memory, errors.
 * Nothing in here knows a layer, a device or a file of settings; every other room may use it.
 * Weight formats live in {@code sparse}, pruning methods in {@code sparsify}, files in {@code io}.
 */
package dev.halve.core;
