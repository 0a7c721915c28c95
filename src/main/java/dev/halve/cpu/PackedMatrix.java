package dev.halve.cpu;

/**
 * A weight {@code [rows, columns]} in the order in which {@link TileKernel}s read it: cut into
 * stripes of as many neighbouring rows as one tile has. Rows past the last one are zeros.
 */
sealed interface PackedMatrix permits PackedSparseWeight, PackedDenseWeight {
  /** Outputs. */
  int rows();

  /** Inputs. */
  int columns();

  /** Rows of a stripe. */
  int stripeRows();

  /** Address of a stripe's first step. */
  long stripe(int index);

  /** Bytes from one step of a stripe to its next. */
  long stepPitch();

  /** Inputs that a step takes; {@code columns} need not be a multiple. */
  int stepColumns();

  /** The kernels that read this packing, for tiles of several token counts. */
  TileKernels kernels();

  /** Bytes of all that the kernels read. */
  long bytes();

  default int stripes() {
    return (rows() + stripeRows() - 1) / stripeRows();
  }
}
