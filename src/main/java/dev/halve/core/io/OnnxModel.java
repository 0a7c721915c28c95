package dev.halve.core.io;

import com.google.protobuf.CodedOutputStream;
import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.lang.foreign.ValueLayout;
import java.nio.channels.Channels;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;

/**
 * An ONNX graph in the making, and its file: nodes are held, tensors are made one at a time as they
 * are written. Field numbers are those of the public {@code onnx.proto}; operators those of opset
 * 17.
 */
public final class OnnxModel {
  private static final int IR_VERSION = 8;
  private static final int OPSET = 17;

  /** Protobuf's own limit for one message. */
  private static final long MAX_BYTES = Integer.MAX_VALUE;

  private final String name;
  private final List<byte[]> nodes = new ArrayList<>();
  private final SequencedMap<String, SafetensorsWriter.Entry> initializers = new LinkedHashMap<>();
  private final List<byte[]> inputs = new ArrayList<>();
  private final List<byte[]> outputs = new ArrayList<>();

  /**
   * @param name of the graph
   */
  public OnnxModel(String name) {
    this.name = name;
  }

  /**
   * Adds a node with one output.
   *
   * @param attributes whole numbers (Integer, Long), floats, or lists of whole numbers ({@code
   *     long[]})
   * @return the output's name
   */
  public String node(
      String opType, String nodeName, Map<String, Object> attributes, String... nodeInputs) {
    return nodes(opType, nodeName, attributes, List.of(nodeName + "_output_0"), nodeInputs)
        .getFirst();
  }

  /** The same with outputs of given names. */
  public List<String> nodes(
      String opType,
      String nodeName,
      Map<String, Object> attributes,
      List<String> nodeOutputs,
      String... nodeInputs) {
    nodes.add(
        message(out -> {
          for (String input : nodeInputs) {
            out.writeString(1, input);
          }
          for (String output : nodeOutputs) {
            out.writeString(2, output);
          }
          out.writeString(3, nodeName);
          out.writeString(4, opType);
          for (Map.Entry<String, Object> attribute : attributes.entrySet()) {
            out.writeByteArray(5, attribute(attribute.getKey(), attribute.getValue()));
          }
        }));
    return nodeOutputs;
  }

  private static byte[] attribute(String name, Object value) {
    return message(out -> {
      out.writeString(1, name);
      switch (value) {
        case Float number -> {
          out.writeFloat(2, number);
          out.writeInt32(20, 1);
        }
        case Number number -> {
          out.writeInt64(3, number.longValue());
          out.writeInt32(20, 2);
        }
        case long[] numbers -> {
          for (long number : numbers) {
            out.writeInt64(8, number);
          }
          out.writeInt32(20, 7);
        }
        default -> throw new IllegalArgumentException(name + " is " + value);
      }
    });
  }

  /** Adds a tensor that is made when the file is written. */
  public String initializer(SafetensorsWriter.Entry entry) {
    if (initializers.put(entry.name(), entry) != null) {
      throw new IllegalArgumentException("two initializers named '" + entry.name() + "'");
    }
    return entry.name();
  }

  /** Adds whole numbers, I64 {@code [values.length]}; a scalar where that is wished. */
  public String constant(String constantName, boolean scalar, long... values) {
    Shape shape = scalar ? Shape.of() : Shape.of(values.length);
    return initializer(
        new SafetensorsWriter.Entry(
            constantName,
            DType.I64,
            shape,
            arena ->
                new Tensor(DType.I64, shape, arena.allocateFrom(ValueLayout.JAVA_LONG, values))));
  }

  /** Adds a number, F32 {@code []}. */
  public String constant(String constantName, float value) {
    return initializer(
        new SafetensorsWriter.Entry(
            constantName,
            DType.F32,
            Shape.of(),
            arena ->
                new Tensor(
                    DType.F32, Shape.of(), arena.allocateFrom(ValueLayout.JAVA_FLOAT, value))));
  }

  /**
   * @param extents names of those that a run decides ({@code batch}), numbers else
   */
  public void input(String inputName, DType dtype, String... extents) {
    inputs.add(valueInfo(inputName, dtype, extents));
  }

  public void output(String outputName, DType dtype, String... extents) {
    outputs.add(valueInfo(outputName, dtype, extents));
  }

  private static byte[] valueInfo(String valueName, DType dtype, String... extents) {
    byte[] shape =
        message(out -> {
          for (String extent : extents) {
            boolean fixed = extent.matches("\\d+");
            out.writeByteArray(
                1,
                message(dimension -> {
                  if (fixed) {
                    dimension.writeInt64(1, Long.parseLong(extent));
                  } else {
                    dimension.writeString(2, extent);
                  }
                }));
          }
        });
    byte[] tensor =
        message(out -> {
          out.writeInt32(1, type(dtype));
          out.writeByteArray(2, shape);
        });
    return message(out -> {
      out.writeString(1, valueName);
      out.writeByteArray(2, message(type -> type.writeByteArray(1, tensor)));
    });
  }

  /** The element type's number in {@code onnx.proto}. */
  static int type(DType dtype) {
    return switch (dtype) {
      case F32 -> 1;
      case U8 -> 2;
      case I8 -> 3;
      case I16 -> 5;
      case I32 -> 6;
      case I64 -> 7;
      case BOOL -> 9;
      case F16 -> 10;
      case F64 -> 11;
      case BF16 -> 16;
    };
  }

  private interface Body {
    void write(CodedOutputStream out) throws IOException;
  }

  private static byte[] message(Body body) {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    CodedOutputStream out = CodedOutputStream.newInstance(bytes);
    try {
      body.write(out);
      out.flush();
    } catch (IOException impossible) {
      throw new UncheckedIOException(impossible);
    }
    return bytes.toByteArray();
  }

  /**
   * Writes the file, all or nothing.
   *
   * @throws HalveException if it cannot be written, or would be larger than an ONNX file can be
   */
  public void write(Path file) {
    List<byte[]> heads = new ArrayList<>();
    long graphBytes = CodedOutputStream.computeStringSize(2, name);
    for (byte[] node : nodes) {
      graphBytes += CodedOutputStream.computeByteArraySize(1, node);
    }
    for (SafetensorsWriter.Entry entry : initializers.values()) {
      byte[] head = head(entry);
      heads.add(head);
      long size = head.length + entry.bytes();
      graphBytes += 1 + CodedOutputStream.computeUInt64SizeNoTag(size) + size;
    }
    for (byte[] each : inputs) {
      graphBytes += CodedOutputStream.computeByteArraySize(11, each);
    }
    for (byte[] each : outputs) {
      graphBytes += CodedOutputStream.computeByteArraySize(12, each);
    }
    if (graphBytes > MAX_BYTES - 1024) {
      throw new HalveException(
          "%s: %,d bytes; an ONNX file has at most 2 GiB: convert to another format"
              .formatted(file, graphBytes));
    }
    long total = graphBytes;
    AtomicFile.write(file, channel -> write(channel, heads, total));
  }

  private void write(FileChannel channel, List<byte[]> heads, long graphBytes) throws IOException {
    CodedOutputStream out = CodedOutputStream.newInstance(Channels.newOutputStream(channel));
    out.writeInt32(1, IR_VERSION);
    out.writeString(2, "halve");
    out.writeByteArray(8, message(opset -> opset.writeInt64(2, OPSET)));
    out.writeTag(7, 2);
    out.writeUInt64NoTag(graphBytes);
    for (byte[] node : nodes) {
      out.writeByteArray(1, node);
    }
    out.writeString(2, name);
    int index = 0;
    for (SafetensorsWriter.Entry entry : initializers.values()) {
      byte[] head = heads.get(index++);
      out.writeTag(5, 2);
      out.writeUInt64NoTag(head.length + entry.bytes());
      out.writeRawBytes(head);
      out.flush();
      entry.writeTo(channel);
    }
    for (byte[] each : inputs) {
      out.writeByteArray(11, each);
    }
    for (byte[] each : outputs) {
      out.writeByteArray(12, each);
    }
    out.flush();
  }

  /** A tensor up to its data, the tag and length of which are the last of it. */
  private static byte[] head(SafetensorsWriter.Entry entry) {
    return message(out -> {
      for (long extent : entry.shape().extents()) {
        out.writeInt64(1, extent);
      }
      out.writeInt32(2, type(entry.dtype()));
      out.writeString(8, entry.name());
      out.writeTag(9, 2);
      out.writeUInt64NoTag(entry.bytes());
    });
  }
}
