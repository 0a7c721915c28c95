package dev.halve.recipe;

/** A run was stopped, as {@link Progress#stopRequested} asked; its message says how to go on. */
public final class StoppedException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  StoppedException(String message) {
    super(message);
  }
}
