package dev.halve.core.io;

import dev.halve.core.HalveException;
import java.io.BufferedInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.function.Function;
import tools.jackson.core.JacksonException;
import tools.jackson.core.JsonParser;
import tools.jackson.core.StreamReadFeature;
import tools.jackson.core.TokenStreamLocation;
import tools.jackson.core.exc.JacksonIOException;
import tools.jackson.core.json.JsonFactory;
import tools.jackson.databind.JsonNode;
import tools.jackson.databind.SerializationFeature;
import tools.jackson.databind.json.JsonMapper;

/** JSON files: read strictly (a key may occur once), written all or nothing. */
public final class Json {
  /** The largest file that {@link #read} takes; a setting or an index needs a thousandth of it. */
  private static final long MAX_BYTES = 100L << 20;

  private static final JsonFactory FACTORY =
      JsonFactory.builder().enable(StreamReadFeature.STRICT_DUPLICATE_DETECTION).build();

  /** The house's mapper: duplicate keys are errors, output is indented. */
  public static final JsonMapper MAPPER =
      JsonMapper.builder(FACTORY).enable(SerializationFeature.INDENT_OUTPUT).build();

  private Json() {}

  /**
   * Reads one JSON document.
   *
   * @throws HalveException if the file cannot be read or is not JSON, with file, line and column
   */
  public static JsonNode read(Path file) {
    try {
      if (Files.size(file) > MAX_BYTES) {
        throw new HalveException(
            file + ": " + Files.size(file) + " bytes of JSON; at most " + MAX_BYTES + " are read");
      }
      return MAPPER.readTree(Files.readAllBytes(file));
    } catch (IOException failure) {
      throw HalveException.of("read", file, failure);
    } catch (JacksonException invalid) {
      throw new HalveException(file + ": " + describe(invalid), invalid);
    }
  }

  /**
   * Reads a document of any size as a stream.
   *
   * @param reading goes through the tokens
   * @throws HalveException as {@link #read(Path)}
   */
  public static <T> T read(Path file, Function<JsonParser, T> reading) {
    try (InputStream stream = new BufferedInputStream(Files.newInputStream(file), 1 << 16);
        JsonParser json = MAPPER.createParser(stream)) {
      return reading.apply(json);
    } catch (IOException failure) {
      throw HalveException.of("read", file, failure);
    } catch (JacksonIOException failure) {
      // Such as a folder, which opens as a file and cannot be read as one.
      throw HalveException.of("read", file, failure.getCause());
    } catch (JacksonException invalid) {
      throw new HalveException(file + ": " + describe(invalid), invalid);
    }
  }

  /** Writes any value that Jackson can, as indented JSON with a newline at its end. */
  public static void write(Path file, Object value) {
    AtomicFile.write(file, MAPPER.writeValueAsString(value) + "\n");
  }

  /** One line on what is wrong with a document, and where. */
  public static String describe(JacksonException invalid) {
    TokenStreamLocation location = invalid.getLocation();
    String message = invalid.getOriginalMessage().lines().findFirst().orElse("unreadable");
    return location == null || location.getLineNr() < 0
        ? "not valid JSON: " + message
        : "not valid JSON at line %d, column %d: %s"
            .formatted(location.getLineNr(), location.getColumnNr(), message);
  }

  /** A value as JSON on one line. */
  public static String compact(Object value) {
    return MAPPER.writer().without(SerializationFeature.INDENT_OUTPUT).writeValueAsString(value);
  }

  static JsonFactory factory() {
    return FACTORY;
  }
}
