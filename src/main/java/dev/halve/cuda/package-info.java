/**
 * The NVIDIA GPU: the engine's operations as CUDA C++ kernels, compiled at run time for the GPU
 * found. Bindings, kernels, their choice by measurement, CUDA graphs. Engine and core may come in.
 */
package dev.halve.cuda;
