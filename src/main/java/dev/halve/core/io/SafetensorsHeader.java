package dev.halve.core.io;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Comparator;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import tools.jackson.core.JacksonException;
import tools.jackson.core.JsonParser;
import tools.jackson.core.JsonToken;
import tools.jackson.core.ObjectReadContext;

/**
 * The header of a safetensors file: eight bytes of length, then JSON that gives each tensor its
 * type, shape and place. The tensors must tile the rest of the file: no byte is free or shared.
 *
 * @param entries in the order of the data
 * @param metadata the map under {@code __metadata__}
 */
record SafetensorsHeader(SequencedMap<String, Entry> entries, Map<String, String> metadata) {
  /** The limit of Hugging Face's own reader. */
  static final long MAX_HEADER_BYTES = 100_000_000;

  private static final ValueLayout.OfLong LENGTH =
      ValueLayout.JAVA_LONG_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

  /** A tensor's place; {@code offset} counts from the beginning of the file. */
  record Entry(DType dtype, Shape shape, long offset, long bytes) {}

  /**
   * @throws HalveException naming the file and the tensor, if anything does not fit
   */
  static SafetensorsHeader read(MemorySegment file, String name) {
    try {
      return new Parser(file).parse();
    } catch (JacksonException invalid) {
      throw new HalveException(name + ": its header is " + Json.describe(invalid), invalid);
    } catch (HalveException lie) {
      throw lie.in(name);
    }
  }

  private static final class Parser {
    private final long dataOffset;
    private final long dataBytes;
    private final byte[] json;
    private final Map<String, Entry> entries = new LinkedHashMap<>();
    private final Map<String, String> metadata = new LinkedHashMap<>();

    Parser(MemorySegment file) {
      long size = file.byteSize();
      if (size < Long.BYTES) {
        throw new HalveException("not a safetensors file: " + size + " bytes hold no header");
      }
      long length = file.get(LENGTH, 0);
      if (length < 2 || length > size - Long.BYTES) {
        throw new HalveException(
            "cut off, or no safetensors file: a header of %s bytes is announced, %d bytes follow"
                .formatted(Long.toUnsignedString(length), size - Long.BYTES));
      }
      if (length > MAX_HEADER_BYTES) {
        throw new HalveException(
            "a header of " + length + " bytes; at most " + MAX_HEADER_BYTES + " are read");
      }
      dataOffset = Long.BYTES + length;
      dataBytes = size - dataOffset;
      json = file.asSlice(Long.BYTES, length).toArray(ValueLayout.JAVA_BYTE);
    }

    SafetensorsHeader parse() {
      if (json[0] != '{') {
        throw new HalveException("not a safetensors file: its header does not begin with '{'");
      }
      try (JsonParser parser = Json.factory().createParser(ObjectReadContext.empty(), json)) {
        parser.nextToken();
        for (String name = parser.nextName(); name != null; name = parser.nextName()) {
          if (name.equals("__metadata__")) {
            readMetadata(parser);
          } else {
            entries.put(name, readEntry(parser, name));
          }
        }
        if (parser.nextToken() != null) {
          throw new HalveException("its header goes on after the closing '}'");
        }
      }
      return new SafetensorsHeader(tiled(), metadata);
    }

    private void readMetadata(JsonParser parser) {
      if (parser.nextToken() != JsonToken.START_OBJECT) {
        throw new HalveException("'__metadata__' is not an object");
      }
      for (String key = parser.nextName(); key != null; key = parser.nextName()) {
        if (parser.nextToken() != JsonToken.VALUE_STRING) {
          throw new HalveException("'__metadata__' has a value that is no text, '" + key + "'");
        }
        metadata.put(key, parser.getString());
      }
    }

    private Entry readEntry(JsonParser parser, String name) {
      if (parser.nextToken() != JsonToken.START_OBJECT) {
        throw new HalveException("tensor '" + name + "' is not described by an object");
      }
      String dtype = null;
      long[] shape = null;
      long[] offsets = null;
      for (String key = parser.nextName(); key != null; key = parser.nextName()) {
        JsonToken value = parser.nextToken();
        switch (key) {
          case "dtype" -> dtype = value == JsonToken.VALUE_STRING ? parser.getString() : null;
          case "shape" -> shape = readLongs(parser, name, key);
          case "data_offsets" -> offsets = readLongs(parser, name, key);
          default -> parser.skipChildren();
        }
      }
      if (dtype == null || shape == null || offsets == null) {
        throw new HalveException(
            "tensor '" + name + "' lacks one of dtype, shape and data_offsets");
      }
      return checked(name, dtype, shape, offsets);
    }

    private static long[] readLongs(JsonParser parser, String name, String key) {
      if (parser.currentToken() != JsonToken.START_ARRAY) {
        throw new HalveException("tensor '" + name + "': its " + key + " is not a list");
      }
      List<Long> values = new ArrayList<>();
      while (parser.nextToken() != JsonToken.END_ARRAY) {
        boolean isLong =
            parser.currentToken() == JsonToken.VALUE_NUMBER_INT
                && parser.getNumberType() != JsonParser.NumberType.BIG_INTEGER
                && parser.getLongValue() >= 0;
        if (!isLong || values.size() == 64) {
          throw new HalveException(
              "tensor '" + name + "': its " + key + " is not a short list of sizes");
        }
        values.add(parser.getLongValue());
      }
      return values.stream().mapToLong(Long::longValue).toArray();
    }

    private Entry checked(String name, String type, long[] extents, long[] offsets) {
      DType dtype =
          Arrays.stream(DType.values())
              .filter(known -> known.name().equals(type))
              .findFirst()
              .orElseThrow(() ->
                  new HalveException(
                      "tensor '%s' is of type %s; the types read are %s"
                          .formatted(name, type, Arrays.toString(DType.values()))));
      Shape shape;
      long bytes;
      try {
        shape = Shape.of(extents);
        bytes = Math.multiplyExact(shape.elements(), (long) dtype.bytes());
      } catch (ArithmeticException | IllegalArgumentException overflow) {
        throw new HalveException(
            "tensor '" + name + "' has impossible shape " + Arrays.toString(extents), overflow);
      }
      if (offsets.length != 2 || offsets[0] > offsets[1] || offsets[1] > dataBytes) {
        throw new HalveException(
            "tensor '%s' is said to be at bytes %s of %d; cut off?"
                .formatted(name, Arrays.toString(offsets), dataBytes));
      }
      if (offsets[1] - offsets[0] != bytes) {
        throw new HalveException(
            "tensor '%s' has %d bytes; %s %s needs %d"
                .formatted(name, offsets[1] - offsets[0], dtype, shape, bytes));
      }
      return new Entry(dtype, shape, dataOffset + offsets[0], bytes);
    }

    private SequencedMap<String, Entry> tiled() {
      SequencedMap<String, Entry> ordered = new LinkedHashMap<>();
      entries.entrySet().stream()
          .sorted(
              Map.Entry.comparingByValue(
                  Comparator.comparingLong(Entry::offset).thenComparingLong(Entry::bytes)))
          .forEachOrdered(entry -> ordered.put(entry.getKey(), entry.getValue()));
      long end = dataOffset;
      String previous = "the header";
      for (Map.Entry<String, Entry> entry : ordered.entrySet()) {
        if (entry.getValue().offset() != end) {
          throw new HalveException(
              "tensor '%s' %s %s"
                  .formatted(
                      entry.getKey(),
                      entry.getValue().offset() < end ? "overlaps" : "leaves a gap after",
                      previous));
        }
        end += entry.getValue().bytes();
        previous = "tensor '" + entry.getKey() + "'";
      }
      if (end != dataOffset + dataBytes) {
        throw new HalveException(
            (dataOffset + dataBytes - end) + " bytes follow the last tensor, described by nothing");
      }
      return ordered;
    }
  }
}
