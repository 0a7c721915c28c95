package dev.halve.recipe;

/**
 * Hears what a run is doing, and may stop it. Called on the thread that runs; every method may be
 * left as it is.
 */
public interface Progress {
  /** Hears nothing. */
  Progress NONE = new Progress() {};

  /**
   * A stage begins; the one before has ended.
   *
   * @param stage {@code fine-tune}, {@code evaluate dense}
   * @param total how much there is to do; 0 if that is unknown
   * @param unit of the amounts, in the plural: {@code steps}, {@code questions}
   */
  default void begin(String stage, long total, String unit) {}

  /**
   * @param done of the stage's total; starts above 0 where a run is resumed
   * @param perSecond units a second since the stage began here; 0 while unknown
   * @param detail what else is to be shown, such as {@code loss 1.234}; may be empty
   */
  default void advance(long done, double perSecond, String detail) {}

  /** The stage is over. */
  default void end(String stage, double seconds) {}

  /** One line that a person should read: a head was initialised, a layer was left dense. */
  default void note(String line) {}

  /**
   * Whether to stop as soon as a checkpoint is written; asked after every step and batch.
   *
   * @see StoppedException
   */
  default boolean stopRequested() {
    return false;
  }
}
