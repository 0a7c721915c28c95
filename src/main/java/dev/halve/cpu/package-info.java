/**
 * The engine's operations on the CPU: kernels of the Vector API and of machine code, dense products
 * through OpenBLAS, and the thread team they share. What comes in implements or serves {@code
 * dev.halve.engine}'s device; it knows the engine and core, and nobody names this package.
 */
package dev.halve.cpu;
