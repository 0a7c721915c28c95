/**
 * Files of weights, read without trust and written all or nothing: safetensors, ONNX, and the
 * atomic replacement of any file. What the tensors in them mean is the matter of the engine;
 * formats of data sets and settings belong to the rooms that use them.
 */
package dev.halve.core.io;
