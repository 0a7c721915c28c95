package dev.halve.engine;

/**
 * Work that is done again and again on batches of few shapes. A device may record the operations of
 * a shape and replay the record; then the work itself does not run.
 *
 * @see Device#openReplay
 */
public interface Replay extends AutoCloseable {
  /**
   * Does the work.
   *
   * @param shape of the batch; for one shape the work queues the same operations on the same memory
   *     each time, copies nothing to or from the host, and finds all that changes in device memory
   *     or in the scalars
   */
  void run(BatchShape shape, StepScalars scalars, Runnable work);

  /** Frees what was recorded. */
  @Override
  default void close() {}
}
