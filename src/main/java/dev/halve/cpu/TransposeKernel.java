package dev.halve.cpu;

/** Turns a square of floats, as wide as a vector has lanes, about its diagonal. */
@FunctionalInterface
interface TransposeKernel {
  /** Addresses of the first rows, and bytes from one row to the next. */
  void run(long from, long fromPitch, long to, long toPitch);
}
