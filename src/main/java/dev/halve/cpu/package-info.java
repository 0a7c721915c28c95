/**
 * The engine's operations on the CPU: Vector API kernels, dense products through OpenBLAS, and the
 * thread team they share. What comes in implements or serves {@code dev.halve.engine}'s device; it
 * knows the engine and core, and nobody names this package.
 */
package dev.halve.cpu;
