package dev.halve.core.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import com.google.protobuf.ByteString;
import com.google.protobuf.CodedOutputStream;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.SplittableRandom;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class OnnxWeightsTest {
  @TempDir Path folder;

  @ParameterizedTest
  @CsvSource({"/all-minilm-l6-v2.onnx, 6", "/bge-small-en-v1.5.onnx, 12"})
  void anEmbeddedEncoderHasTheNamesAndShapesOfItsHuggingFaceFolder(String resource, int layers)
      throws IOException {
    try (InputStream in = OnnxWeightsTest.class.getResourceAsStream(resource);
        OnnxWeights weights = OnnxWeights.read(in, resource)) {
      assertThat(weights.names()).noneMatch(name -> name.contains("MatMul"));
      assertThat(weights.names().stream().filter(name -> name.startsWith("encoder.layer.")))
          .hasSize(16 * layers);
      assertShape(weights, "embeddings.word_embeddings.weight", 30522, 384);
      assertShape(weights, "embeddings.LayerNorm.bias", 384);
      for (int i = 0; i < layers; i++) {
        String layer = "encoder.layer." + i + ".";
        for (String square :
            new String[] {"self.query", "self.key", "self.value", "output.dense"}) {
          assertShape(weights, layer + "attention." + square + ".weight", 384, 384);
          assertShape(weights, layer + "attention." + square + ".bias", 384);
        }
        assertShape(weights, layer + "intermediate.dense.weight", 1536, 384);
        assertShape(weights, layer + "output.dense.weight", 384, 1536);
        assertShape(weights, layer + "output.LayerNorm.weight", 384);
      }
      for (String name : weights.names()) {
        if (weights.tensor(name).dtype().isFloating()) {
          weights.tensor(name).requireFinite(name);
        }
      }
    }
  }

  @Test
  void linearWeightsAreNamedAndTurnedTheRestIsAsStored() throws IOException {
    byte[] model =
        model(
            node("Gather", "/embeddings/Gather", "embeddings.weight", "ids"),
            node("MatMul", "/encoder/layer.0/query/MatMul", "x", "onnx::MatMul_1"),
            node("MatMul", "/encoder/scores/MatMul", "q", "k"),
            initializer("onnx::MatMul_1", 1, new long[] {2, 3}, floats(1, 2, 3, 4, 5, 6)),
            initializer("embeddings.weight", 1, new long[] {2, 2}, floats(7, 8, 9, 10)),
            initializer("shapes", 8, new long[] {1}, new byte[] {1}));
    try (OnnxWeights weights = OnnxWeights.read(new ByteArrayInputStream(model), "m")) {
      assertThat(weights.names())
          .containsExactly("encoder.layer.0.query.weight", "embeddings.weight");
      assertShape(weights, "encoder.layer.0.query.weight", 3, 2);
      assertThat(weights.tensor("encoder.layer.0.query.weight").toFloatArray())
          .containsExactly(1, 4, 2, 5, 3, 6);
      assertThat(weights.tensor("embeddings.weight").toFloatArray()).containsExactly(7, 8, 9, 10);
    }
    Path file = Files.write(folder.resolve("model.onnx"), model);
    try (OnnxWeights weights = OnnxWeights.open(file)) {
      assertThat(weights.tensor("encoder.layer.0.query.weight").toFloatArray())
          .containsExactly(1, 4, 2, 5, 3, 6);
      assertThatThrownBy(() -> weights.tensor("onnx::MatMul_1"))
          .isInstanceOf(HalveException.class)
          .hasMessage(file + ": no tensor named 'onnx::MatMul_1'");
    }
  }

  @Test
  void transposingAnyShapeMovesEveryElement() throws IOException {
    for (int[] shape : new int[][] {{1, 1}, {33, 70}, {64, 32}, {100, 1}}) {
      float[] values = new float[shape[0] * shape[1]];
      for (int i = 0; i < values.length; i++) {
        values[i] = i;
      }
      byte[] model =
          model(
              node("MatMul", "a/MatMul_7", "x", "w"),
              initializer("w", 1, new long[] {shape[0], shape[1]}, floats(values)));
      try (OnnxWeights weights = OnnxWeights.read(new ByteArrayInputStream(model), "m")) {
        for (int row = 0; row < shape[0]; row++) {
          for (int column = 0; column < shape[1]; column++) {
            assertThat(weights.tensor("a.weight").getFloat((long) column * shape[0] + row))
                .isEqualTo(values[row * shape[1] + column]);
          }
        }
      }
    }
  }

  @Test
  void oneWeightUsedByTwoLayersIsThereUnderBothNames() throws IOException {
    byte[] model =
        model(
            initializer("w", 1, new long[] {1, 2}, floats(1, 2)),
            node("MatMul", "/a/MatMul", "x", "w"),
            node("MatMul", "/b/MatMul", "y", "w"));
    try (OnnxWeights weights = OnnxWeights.read(new ByteArrayInputStream(model), "m")) {
      assertThat(weights.names()).containsExactly("a.weight", "b.weight");
      assertThat(weights.tensor("b.weight").toFloatArray()).containsExactly(1, 2);
    }
  }

  @Test
  void modelsThatLieAreRefused() throws IOException {
    byte[] good = initializer("w", 1, new long[] {1, 2}, floats(1, 2));
    refused("no graph", new byte[0]);
    refused("no graph", field(3, new byte[] {1, 2}));
    refused(
        "'w' has 8 bytes; F32 [1, 3] needs 12",
        model(initializer("w", 1, new long[] {1, 3}, floats(1, 2))));
    refused(
        "'w' has impossible shape [-1, 2]",
        model(initializer("w", 1, new long[] {-1, 2}, floats(1, 2))));
    refused(
        "'w' has impossible shape",
        model(initializer("w", 1, new long[] {1L << 62, 16}, floats(1, 2))));
    refused("two initializers are named 'w'", model(good, good));
    refused(
        "two weights would be named 'a.weight'",
        model(good, node("MatMul", "a/MatMul", "x", "w"), node("MatMul", "/a/MatMul_1", "x", "w")));
    refused(
        "two weights would be named 'a.weight'",
        model(
            good,
            node("MatMul", "a/MatMul", "x", "w"),
            initializer("a.weight", 1, new long[] {1, 2}, floats(1, 2))));
    ByteArrayOutputStream external = new ByteArrayOutputStream();
    external.write(new byte[] {14 << 3, 1});
    external.write(field(8, "w".getBytes(java.nio.charset.StandardCharsets.UTF_8)));
    refused("'w' lies in another file", field(7, field(5, external.toByteArray())));
    refused("more than 64 dimensions", model(initializer("w", 1, new long[100], new byte[0])));
    refused("cut off, or not an ONNX model", new byte[] {3 << 3 | 4});
    // A graph that claims two gigabytes.
    refused("cut off", new byte[] {7 << 3 | 2, -1, -1, -1, -1, 7, 1, 2, 3});
  }

  @Test
  void everyTruncationIsRefusedOrLosesOnlyWholeParts() throws IOException {
    byte[] whole = sample();
    // The graph is one message, so that any cut within it shows.
    for (int length = 0; length < whole.length; length++) {
      refused("", Arrays.copyOf(whole, length));
    }
  }

  @Test
  void mutatedModelsAreReadOrRefusedButNeverBreak() throws IOException {
    byte[] whole = sample();
    SplittableRandom random = new SplittableRandom(20260102);
    int refused = 0;
    for (int round = 0; round < 5000; round++) {
      byte[] mutated = whole.clone();
      for (int i = random.nextInt(1, 4); i > 0; i--) {
        mutated[random.nextInt(mutated.length)] =
            (byte) (random.nextBoolean() ? random.nextInt() : 1 << random.nextInt(8));
      }
      try (OnnxWeights weights = OnnxWeights.read(new ByteArrayInputStream(mutated), "fuzz")) {
        weights.names().forEach(weights::tensor);
      } catch (HalveException expected) {
        assertThat(expected.getMessage()).startsWith("fuzz").doesNotContain("\n");
        refused++;
      }
    }
    assertThat(refused).isBetween(500, 4900);
  }

  @Test
  void aStreamThatDoesNotKnowItsLengthIsReadWhole() throws IOException {
    byte[] data = new byte[5 << 20];
    new java.util.Random(1).nextBytes(data);
    byte[] model = model(initializer("w", 2, new long[] {data.length}, data));
    InputStream shy =
        new ByteArrayInputStream(model) {
          @Override
          public synchronized int available() {
            return 0;
          }
        };
    try (OnnxWeights weights = OnnxWeights.read(shy, "m")) {
      assertThat(weights.tensor("w").segment().toArray(java.lang.foreign.ValueLayout.JAVA_BYTE))
          .isEqualTo(data);
    }
    InputStream broken =
        new InputStream() {
          @Override
          public int read() throws IOException {
            throw new IOException("the jar is damaged");
          }
        };
    assertThatThrownBy(() -> OnnxWeights.read(broken, "m").close())
        .isInstanceOf(HalveException.class)
        .hasMessage("cannot read m: the jar is damaged");
  }

  private static void refused(String message, byte[] model) {
    assertThatThrownBy(() -> OnnxWeights.read(new ByteArrayInputStream(model), "m.onnx").close())
        .isInstanceOf(HalveException.class)
        .hasMessageStartingWith("m.onnx: ")
        .hasMessageContaining(message);
  }

  private static byte[] sample() throws IOException {
    return model(
        node("MatMul", "/encoder/layer.0/query/MatMul", "x", "onnx::MatMul_1"),
        node("Add", "/encoder/layer.0/query/Add", "b", "y"),
        initializer("onnx::MatMul_1", 1, new long[] {2, 3}, floats(1, 2, 3, 4, 5, 6)),
        initializer("b", 10, new long[] {3}, new byte[6]),
        initializer("ids", 7, new long[] {}, new byte[8]));
  }

  private static void assertShape(OnnxWeights weights, String name, long... extents) {
    assertThat(weights.tensor(name).shape()).as(name).isEqualTo(Shape.of(extents));
  }

  private static byte[] model(byte[]... parts) throws IOException {
    ByteArrayOutputStream graph = new ByteArrayOutputStream();
    for (byte[] part : parts) {
      graph.write(field(part[0] == Part.NODE ? 1 : 5, Arrays.copyOfRange(part, 1, part.length)));
    }
    return field(7, graph.toByteArray());
  }

  /** The first byte of a part says which list of the graph it belongs to. */
  private static final class Part {
    static final byte NODE = 0;
    static final byte INITIALIZER = 1;
  }

  private static byte[] node(String opType, String name, String... inputs) {
    return message(
        Part.NODE,
        out -> {
          for (String input : inputs) {
            out.writeString(1, input);
          }
          out.writeString(2, name + "_output_0");
          out.writeString(3, name);
          out.writeString(4, opType);
        });
  }

  private static byte[] initializer(String name, int type, long[] dims, byte[] data) {
    return message(
        Part.INITIALIZER,
        out -> {
          for (long dim : dims) {
            out.writeInt64(1, dim);
          }
          out.writeInt32(2, type);
          out.writeString(8, name);
          out.writeBytes(9, ByteString.copyFrom(data));
        });
  }

  private interface Body {
    void write(CodedOutputStream out) throws IOException;
  }

  private static byte[] message(byte part, Body body) {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    bytes.write(part);
    CodedOutputStream out = CodedOutputStream.newInstance(bytes);
    try {
      body.write(out);
      out.flush();
    } catch (IOException impossible) {
      throw new UncheckedIOException(impossible);
    }
    return bytes.toByteArray();
  }

  private static byte[] field(int number, byte[] content) {
    byte[] part = message((byte) 0, out -> out.writeByteArray(number, content));
    return Arrays.copyOfRange(part, 1, part.length);
  }

  private static byte[] floats(float... values) {
    ByteBuffer buffer = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
    for (float value : values) {
      buffer.putFloat(value);
    }
    return buffer.array();
  }
}
