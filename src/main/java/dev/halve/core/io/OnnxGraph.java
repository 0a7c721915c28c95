package dev.halve.core.io;

import com.google.protobuf.CodedInputStream;
import com.google.protobuf.WireFormat;
import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import java.io.IOException;
import java.lang.foreign.MemorySegment;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Optional;
import java.util.SequencedMap;

/**
 * What a file of weights needs of an ONNX model, read from its protobuf wire format: where each
 * initializer lies, and which MatMul nodes use which. Field numbers are those of the public {@code
 * onnx.proto}. No tensor is copied, and nothing is allocated that the file does not pay for byte by
 * byte.
 */
record OnnxGraph(SequencedMap<String, Initializer> initializers, List<MatMul> matMuls) {
  /** A stored tensor; {@code offset} counts from the beginning of the file. */
  record Initializer(DType dtype, Shape shape, long offset, long bytes) {}

  /** A product whose second factor is named {@code weight}. */
  record MatMul(String name, String weight) {}

  private static final int MODEL_GRAPH = 7;
  private static final int GRAPH_NODE = 1;
  private static final int GRAPH_INITIALIZER = 5;
  private static final int NODE_INPUT = 1;
  private static final int NODE_NAME = 3;
  private static final int NODE_OP_TYPE = 4;
  private static final int TENSOR_DIMS = 1;
  private static final int TENSOR_DATA_TYPE = 2;
  private static final int TENSOR_FLOAT_DATA = 4;
  private static final int TENSOR_NAME = 8;
  private static final int TENSOR_RAW_DATA = 9;
  private static final int TENSOR_DATA_LOCATION = 14;

  /**
   * @throws HalveException if the bytes are no ONNX model, or an initializer's data do not fit its
   *     shape
   */
  static OnnxGraph read(MemorySegment model) {
    OnnxGraph graph = new OnnxGraph(new LinkedHashMap<>(), new ArrayList<>());
    // Over a stream: given a buffer outside the heap, protobuf would copy all of it.
    CodedInputStream in = CodedInputStream.newInstance(new SegmentStream(model));
    try {
      boolean found = false;
      for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
        if (isMessage(tag, MODEL_GRAPH)) {
          found = true;
          int length = in.readRawVarint32();
          if (length > model.byteSize() - in.getTotalBytesRead()) {
            // Inner messages are held to this one's end; a stream has none of its own.
            throw new HalveException(
                "cut off, or not an ONNX model: a graph of %d bytes is announced, %d follow"
                    .formatted(length, model.byteSize() - in.getTotalBytesRead()));
          }
          int outer = in.pushLimit(length);
          graph.readGraph(in);
          in.popLimit(outer);
        } else {
          skip(in, tag);
        }
      }
      if (!found) {
        throw new HalveException("not an ONNX model: it has no graph");
      }
    } catch (IOException malformed) {
      throw new HalveException(
          "cut off, or not an ONNX model: " + malformed.getMessage(), malformed);
    }
    return graph;
  }

  private static boolean isMessage(int tag, int field) {
    return WireFormat.getTagFieldNumber(tag) == field
        && WireFormat.getTagWireType(tag) == WireFormat.WIRETYPE_LENGTH_DELIMITED;
  }

  private static void skip(CodedInputStream in, int tag) throws IOException {
    if (!in.skipField(tag)) {
      throw new HalveException("cut off, or not an ONNX model: a group ends that never began");
    }
  }

  private void readGraph(CodedInputStream in) throws IOException {
    for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
      if (isMessage(tag, GRAPH_NODE)) {
        int outer = in.pushLimit(in.readRawVarint32());
        readNode(in);
        in.popLimit(outer);
      } else if (isMessage(tag, GRAPH_INITIALIZER)) {
        int outer = in.pushLimit(in.readRawVarint32());
        readInitializer(in);
        in.popLimit(outer);
      } else {
        skip(in, tag);
      }
    }
  }

  private void readNode(CodedInputStream in) throws IOException {
    int inputs = 0;
    String weight = "";
    String name = "";
    String opType = "";
    for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
      if (isMessage(tag, NODE_INPUT)) {
        String input = in.readString();
        inputs++;
        weight = inputs == 2 ? input : weight;
      } else if (isMessage(tag, NODE_NAME)) {
        name = in.readString();
      } else if (isMessage(tag, NODE_OP_TYPE)) {
        opType = in.readString();
      } else {
        skip(in, tag);
      }
    }
    if (opType.equals("MatMul") && inputs == 2) {
      matMuls.add(new MatMul(name, weight));
    }
  }

  private void readInitializer(CodedInputStream in) throws IOException {
    List<Long> dims = new ArrayList<>();
    int type = 0;
    String name = "";
    boolean external = false;
    long offset = -1;
    long bytes = 0;
    for (int tag = in.readTag(); tag != 0; tag = in.readTag()) {
      int field = WireFormat.getTagFieldNumber(tag);
      if (field == TENSOR_DIMS && !isMessage(tag, field)) {
        addDimension(dims, in.readInt64());
      } else if (field == TENSOR_DIMS) {
        int outer = in.pushLimit(in.readRawVarint32());
        while (in.getBytesUntilLimit() > 0) {
          addDimension(dims, in.readInt64());
        }
        in.popLimit(outer);
      } else if (field == TENSOR_DATA_TYPE && !isMessage(tag, field)) {
        type = in.readInt32();
      } else if (field == TENSOR_DATA_LOCATION && !isMessage(tag, field)) {
        external = in.readInt32() != 0;
      } else if (isMessage(tag, TENSOR_NAME)) {
        name = in.readString();
      } else if (isMessage(tag, TENSOR_RAW_DATA) || isMessage(tag, TENSOR_FLOAT_DATA)) {
        bytes = in.readRawVarint32();
        offset = in.getTotalBytesRead();
        in.skipRawBytes((int) bytes);
      } else {
        skip(in, tag);
      }
    }
    Optional<DType> dtype = dtype(type);
    if (external) {
      throw new HalveException(
          "initializer '" + name + "' lies in another file; save the model as a single file");
    }
    // A type that no tensor here can have, or one stored element by element, is no weight.
    if (dtype.isPresent() && offset >= 0) {
      add(name, dtype.get(), dims, offset, bytes);
    }
  }

  private static void addDimension(List<Long> dims, long extent) {
    if (dims.size() == 64) {
      throw new HalveException("an initializer has more than 64 dimensions");
    }
    dims.add(extent);
  }

  private void add(String name, DType dtype, List<Long> dims, long offset, long bytes) {
    long needed;
    Shape shape;
    try {
      shape = Shape.of(dims.stream().mapToLong(Long::longValue).toArray());
      needed = Math.multiplyExact(shape.elements(), (long) dtype.bytes());
    } catch (ArithmeticException | IllegalArgumentException impossible) {
      throw new HalveException(
          "initializer '" + name + "' has impossible shape " + dims, impossible);
    }
    if (bytes != needed) {
      throw new HalveException(
          "initializer '%s' has %d bytes; %s %s needs %d"
              .formatted(name, bytes, dtype, shape, needed));
    }
    if (initializers.put(name, new Initializer(dtype, shape, offset, bytes)) != null) {
      throw new HalveException("two initializers are named '" + name + "'");
    }
  }

  /** The element type by its number in {@code onnx.proto}; empty for one that no tensor has. */
  private static Optional<DType> dtype(int type) {
    return Arrays.stream(DType.values()).filter(each -> OnnxModel.type(each) == type).findFirst();
  }
}
