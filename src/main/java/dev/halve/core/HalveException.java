package dev.halve.core;

/**
 * An error for the person who runs Halve: one line that names the thing (file, tensor, shape found,
 * shape expected) and the way out. The command line prints the message alone and ends with exit
 * code 2.
 */
public final class HalveException extends RuntimeException {
  private static final long serialVersionUID = 1L;

  public HalveException(String message) {
    super(message);
  }

  public HalveException(String message, Throwable cause) {
    super(message, cause);
  }

  /**
   * The same error, told of a named thing: {@code "weights.safetensors: the header is cut off"}.
   */
  public HalveException in(String name) {
    return new HalveException(name + ": " + getMessage(), this);
  }
}
