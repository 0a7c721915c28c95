package dev.halve.core;

import java.io.IOException;
import java.nio.charset.CharacterCodingException;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.nio.file.Path;

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

  /**
   * A failed access to a file: {@code "cannot read weights.safetensors: no such file"}.
   *
   * @param action the verb: read, write
   */
  public static HalveException of(String action, Path path, IOException cause) {
    String reason =
        switch (cause) {
          case NoSuchFileException missing -> "no such file or folder";
          case AccessDeniedException denied -> "permission denied";
          case FileAlreadyExistsException exists -> "a file is in the way: " + exists.getFile();
          case NotDirectoryException file -> "not a folder: " + file.getFile();
          case CharacterCodingException notText -> "it is no text in UTF-8; convert it";
          case FileSystemException other when other.getReason() != null -> other.getReason();
          default -> cause.getMessage() == null ? cause.toString() : cause.getMessage();
        };
    return new HalveException("cannot " + action + " " + path + ": " + reason, cause);
  }
}
