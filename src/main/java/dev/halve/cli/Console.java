package dev.halve.cli;

import java.io.FileOutputStream;
import java.io.IOException;
import java.io.PrintStream;
import java.io.PrintWriter;
import java.nio.charset.Charset;
import java.nio.charset.StandardCharsets;
import java.util.Locale;
import tools.jackson.core.StreamWriteFeature;
import tools.jackson.databind.ObjectMapper;
import tools.jackson.databind.SerializationFeature;
import tools.jackson.databind.json.JsonMapper;

/**
 * Where a command writes.
 *
 * @param out for answers: what was asked for and nothing else
 * @param err for errors, notes and progress
 * @param terminal whether a person watches {@code err}
 */
record Console(PrintStream out, PrintStream err, boolean terminal) {
  private static final ObjectMapper JSON =
      JsonMapper.builder()
          .enable(SerializationFeature.INDENT_OUTPUT)
          .disable(StreamWriteFeature.AUTO_CLOSE_TARGET)
          .build();

  /** The process's own streams, as the launcher hands them over or as Java finds them. */
  static Console ofProcess() {
    java.io.Console console = System.console();
    String terminal = System.getProperty("halve.terminal");
    boolean isTerminal =
        terminal == null ? console != null && console.isTerminal() : Boolean.parseBoolean(terminal);
    PrintStream err = System.err;
    String path = System.getProperty("halve.stderr");
    if (path != null) {
      try {
        Charset charset = isTerminal ? err.charset() : StandardCharsets.UTF_8;
        err = new PrintStream(new FileOutputStream(path, true), true, charset);
        System.setErr(err);
      } catch (IOException notAFile) {
        // A socket cannot be opened by name; its way through the launcher's filter is open.
        err = System.err;
      }
    }
    return new Console(System.out, err, isTerminal);
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
    out.println(JSON.writeValueAsString(value));
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
