package dev.halve.cli;

import dev.halve.core.io.Json;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.lang.reflect.Constructor;
import java.lang.reflect.InaccessibleObjectException;
import java.util.Locale;

/**
 * Where a command writes.
 *
 * @param out for answers: what was asked for and nothing else
 * @param err for errors, notes and progress
 * @param terminal whether a person watches {@code err}
 */
record Console(PrintStream out, PrintStream err, boolean terminal) {
  /** The process's own streams, as the launcher hands them over or as Java finds them. */
  static Console ofProcess() {
    java.io.Console console = System.console();
    String terminal = System.getProperty("halve.terminal");
    boolean isTerminal =
        terminal == null ? console != null && console.isTerminal() : Boolean.parseBoolean(terminal);
    PrintStream err = standardError();
    System.setErr(err);
    return new Console(System.out, err, isTerminal);
  }

  /**
   * The caller's standard error, which the launcher hands over under another number. It must be
   * that very descriptor: a file that is opened by name a second time has a place of its own to
   * write at, and two writers then overwrite each other.
   */
  private static PrintStream standardError() {
    Integer number = Integer.getInteger("halve.stderr");
    if (number == null) {
      return System.err;
    }
    try {
      Constructor<FileDescriptor> byNumber = FileDescriptor.class.getDeclaredConstructor(int.class);
      byNumber.setAccessible(true);
      FileOutputStream stream = new FileOutputStream(byNumber.newInstance(number));
      return new PrintStream(stream, true, System.err.charset());
    } catch (ReflectiveOperationException | InaccessibleObjectException notThisJdk) {
      // What is written then passes the launcher's filter.
      return System.err;
    }
  }

  /** One line of an answer. */
  void print(String line) {
    out.println(line);
  }

  /** One line of an answer, with numbers as programs write them. */
  void printf(String format, Object... arguments) {
    out.println(String.format(Locale.ROOT, format, arguments));
  }

  /** The answer for a program: one JSON object. */
  void json(Object value) {
    out.println(Json.MAPPER.writeValueAsString(value));
  }

  /**
   * Why an answer did not get out, such as a full disk; null where it did, and where its reader has
   * seen enough, as {@code head} has. The stream keeps the failure and not its reason: one more
   * byte brings that out.
   */
  String unwritten() {
    if (!out.checkError()) {
      return null;
    }
    try (FileOutputStream again = new FileOutputStream(FileDescriptor.out)) {
      again.write('\n');
      return "a part is missing";
    } catch (IOException failure) {
      String reason = String.valueOf(failure.getMessage());
      return reason.toLowerCase(Locale.ROOT).contains("pipe") ? null : reason;
    }
  }

  void error(String line) {
    err.println(line);
  }

  PrintWriter outWriter() {
    return new PrintWriter(out, true, out.charset());
  }

  PrintWriter errWriter() {
    return new PrintWriter(err, true, err.charset());
  }
}
