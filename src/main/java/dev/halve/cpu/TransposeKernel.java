package dev.halve.cpu;

/** Turns squares of floats, as wide as a vector has lanes, about their diagonals. */
@FunctionalInterface
interface TransposeKernel {
  /**
   * Addresses of the first square's first rows, and bytes from one row to the next and from one
   * square to the next.
   *
   * @param squares at least one
   */
  void run(
      long from, long fromPitch, long fromStep, long to, long toPitch, long toStep, int squares);

  /** One square alone. */
  default void run(long from, long fromPitch, long to, long toPitch) {
    run(from, fromPitch, 0, to, toPitch, 0, 1);
  }

  /** A kernel of one square, for as many as there are. */
  @FunctionalInterface
  interface Square {
    void run(long from, long fromPitch, long to, long toPitch);

    default TransposeKernel each() {
      return (from, fromPitch, fromStep, to, toPitch, toStep, squares) -> {
        for (int i = 0; i < squares; i++) {
          run(from + i * fromStep, fromPitch, to + i * toStep, toPitch);
        }
      };
    }
  }
}
