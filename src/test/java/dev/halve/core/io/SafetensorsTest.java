package dev.halve.core.io;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import java.util.SplittableRandom;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;
import org.junit.jupiter.params.provider.ValueSource;

class SafetensorsTest {
  @TempDir Path folder;
  private final Arena arena = Arena.ofConfined();

  @AfterEach
  void close() {
    arena.close();
  }

  @Test
  void everyTypeAndShapeComesBackBitForBit() throws IOException {
    SequencedMap<String, Tensor> tensors = randomTensors(new SplittableRandom(3));
    Path file = folder.resolve("model.safetensors");
    SafetensorsWriter.write(file, tensors, Map.of("format", "pt", "Größe", "½ \" \\ \n"));
    try (Safetensors read = Safetensors.open(file)) {
      assertThat(read.names()).containsExactlyInAnyOrderElementsOf(tensors.keySet());
      assertThat(read.metadata())
          .containsEntry("format", "pt")
          .containsEntry("Größe", "½ \" \\ \n");
      tensors.forEach((name, tensor) -> assertSame(read.tensor(name), tensor));
    }
    byte[] once = Files.readAllBytes(file);
    SafetensorsWriter.write(file, tensors, Map.of("format", "pt", "Größe", "½ \" \\ \n"));
    assertThat(Files.readAllBytes(file)).isEqualTo(once);
  }

  @Test
  void aFileWrittenByHandIsRead() throws IOException {
    Path file =
        written(
            """
            {"b":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},\
            "a":{"shape":[2,1],"dtype":"F32","extra":{"x":[1,{}]},"data_offsets":[3,11]},\
            "none":{"dtype":"I64","shape":[0,7],"data_offsets":[11,11]},\
            "scalar":{"dtype":"BF16","shape":[],"data_offsets":[11,13]}}\
            """,
            1,
            2,
            3,
            0,
            0,
            0x80,
            0x3f,
            0,
            0,
            0,
            0xc0,
            0x80,
            0x40);
    try (Safetensors read = Safetensors.open(file)) {
      assertThat(read.names()).containsExactly("b", "a", "none", "scalar");
      assertThat(read.tensor("a").toFloatArray()).containsExactly(1, -2);
      assertThat(read.tensor("a")).isSameAs(read.tensor("a"));
      assertThat(read.tensor("none").shape()).isEqualTo(Shape.of(0, 7));
      assertThat(read.tensor("scalar").getFloat(0)).isEqualTo(4);
      assertThat(read.metadata()).isEmpty();
      assertThatThrownBy(() -> read.tensor("c"))
          .isInstanceOf(HalveException.class)
          .hasMessageContaining("no tensor named 'c'");
    }
  }

  @Test
  void writtenTensorsAreAlignedSoThatTheyAreViewsOfTheFile() {
    Path file = folder.resolve("model.safetensors");
    SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
    tensors.put("bytes", Tensor.allocate(arena, DType.U8, 3));
    tensors.put("halves", Tensor.allocate(arena, DType.F16, 5));
    tensors.put("doubles", Tensor.allocate(arena, DType.F64, 1));
    SafetensorsWriter.write(file, tensors, Map.of());
    try (Safetensors read = Safetensors.open(file)) {
      assertThat(read.names()).containsExactly("doubles", "halves", "bytes");
      assertThat(read.tensor("doubles").segment().address() % 64).isZero();
      assertThat(read.tensor("halves").segment().isReadOnly()).isTrue();
    }
  }

  @Test
  void shardsAreOneModelAndAFolderIsEnough() {
    SequencedMap<String, Tensor> all = randomTensors(new SplittableRandom(4));
    SequencedMap<String, String> index = new LinkedHashMap<>();
    List<String> names = List.copyOf(all.keySet());
    for (int shard = 0; shard < 3; shard++) {
      SequencedMap<String, Tensor> part = new LinkedHashMap<>();
      String file = "model-0000%d-of-00003.safetensors".formatted(shard + 1);
      for (int i = shard; i < names.size(); i += 3) {
        part.put(names.get(i), all.get(names.get(i)));
        index.put(names.get(i), file);
      }
      SafetensorsWriter.write(folder.resolve(file), part, Map.of("format", "pt"));
    }
    Json.write(
        folder.resolve("model.safetensors.index.json"),
        Map.of("metadata", Map.of("total_size", 1), "weight_map", index));
    try (Safetensors read = Safetensors.open(folder)) {
      assertThat(read.names()).containsExactlyInAnyOrderElementsOf(names);
      all.forEach((name, tensor) -> assertSame(read.tensor(name), tensor));
    }
  }

  @ParameterizedTest
  @ValueSource(
      strings = {
        "{\"weight_map\": {\"a\": \"../secret.safetensors\"}}",
        "{\"weight_map\": {\"a\": \"/etc/x.safetensors\"}}",
        "{\"weight_map\": {\"a\": 7}}",
        "{\"weight_map\": {\"a\": \"missing.safetensors\"}}",
        "{\"weight_map\": {\"other\": \"there.safetensors\"}}",
        "{\"weight_map\": {\"a\": \"there.safetensors\", \"a\": \"there.safetensors\"}}",
        "{\"weight_map\": []}",
        "{}",
        "",
        "{\"weight_map\":",
      })
  void anIndexThatLiesIsRefused(String index) throws IOException {
    SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
    tensors.put("a", Tensor.allocate(arena, DType.F32, 2));
    SafetensorsWriter.write(folder.resolve("there.safetensors"), tensors, Map.of());
    Files.writeString(folder.resolve("model.safetensors.index.json"), index);
    assertThatThrownBy(() -> Safetensors.open(folder).close())
        .isInstanceOf(HalveException.class)
        .hasMessageContaining(folder.toString());
  }

  @ParameterizedTest
  @CsvSource(
      delimiter = '|',
      quoteCharacter = '`',
      value = {
        "overlapping | 'b' overlaps tensor 'a' |"
            + " {'a':{'dtype':'U8','shape':[3],'data_offsets':[0,3]},'b':{'dtype':'U8','shape':[2],'data_offsets':[2,4]}}",
        "a hole | 'b' leaves a gap after tensor 'a' |"
            + " {'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1]},'b':{'dtype':'U8','shape':[2],'data_offsets':[2,4]}}",
        "a hole at first | 'a' leaves a gap after the header |"
            + " {'a':{'dtype':'U8','shape':[3],'data_offsets':[1,4]}}",
        "bytes left over | 1 bytes follow the last tensor |"
            + " {'a':{'dtype':'U8','shape':[3],'data_offsets':[0,3]}}",
        "no tensors | 4 bytes follow | {}",
        "past the end | 'a' is said to be at bytes [0, 5] of 4 |"
            + " {'a':{'dtype':'U8','shape':[5],'data_offsets':[0,5]}}",
        "backwards | [3, 1] | {'a':{'dtype':'U8','shape':[2],'data_offsets':[3,1]}}",
        "negative | short list of sizes | {'a':{'dtype':'U8','shape':[2],'data_offsets':[-1,1]}}",
        "one offset | at bytes [4] | {'a':{'dtype':'U8','shape':[4],'data_offsets':[4]}}",
        "wrong size | 4 bytes; F32 [2] needs 8 |"
            + " {'a':{'dtype':'F32','shape':[2],'data_offsets':[0,4]}}",
        "overflow | impossible shape |"
            + " {'a':{'dtype':'F32','shape':[4611686018427387904,4],'data_offsets':[0,4]}}",
        "overflow in bytes | impossible shape |"
            + " {'a':{'dtype':'F32','shape':[4611686018427387905],'data_offsets':[0,4]}}",
        "a fraction | short list of sizes |"
            + " {'a':{'dtype':'F32','shape':[1.0],'data_offsets':[0,4]}}",
        "too large a number | short list of sizes |"
            + " {'a':{'dtype':'F32','shape':[99999999999999999999],'data_offsets':[0,4]}}",
        "shape no list | shape is not a list |"
            + " {'a':{'dtype':'F32','shape':1,'data_offsets':[0,4]}}",
        "unknown type | of type F8_E4M3; the types read are |"
            + " {'a':{'dtype':'F8_E4M3','shape':[4],'data_offsets':[0,4]}}",
        "type no text | lacks one of | {'a':{'dtype':5,'shape':[4],'data_offsets':[0,4]}}",
        "no type | lacks one of dtype, shape and data_offsets |"
            + " {'a':{'shape':[4],'data_offsets':[0,4]}}",
        "no object | not described by an object | {'a':[0,4]}",
        "twice the same name | uplicate |"
            + " {'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4]},'a':{'dtype':'U8','shape':[4],'data_offsets':[0,4]}}",
        "twice the same key | uplicate |"
            + " {'a':{'dtype':'U8','dtype':'U8','shape':[4],'data_offsets':[0,4]}}",
        "metadata no object | '__metadata__' is not an object | {'__metadata__':3}",
        "metadata no text | no text, 'x' | {'__metadata__':{'x':{}}}",
        "a list | does not begin with | [1]",
        "unclosed | not valid JSON | {'a':{'dtype':'U8'",
        "more after it | goes on | {} {}",
      })
  void aHeaderThatLiesIsRefused(String lie, String message, String header) throws IOException {
    Path file = written(header.replace('\'', '"'), 1, 2, 3, 4);
    assertThatThrownBy(() -> Safetensors.open(file).close())
        .as(lie)
        .isInstanceOf(HalveException.class)
        .hasMessageContaining(file.toString())
        .hasMessageContaining(message);
  }

  @ParameterizedTest
  @ValueSource(longs = {-1, Long.MIN_VALUE, 0, 1, 100, 1L << 40, Long.MAX_VALUE})
  void anImpossibleHeaderLengthIsRefused(long length) throws IOException {
    ByteBuffer bytes = ByteBuffer.allocate(60).order(ByteOrder.LITTLE_ENDIAN);
    Path file = Files.write(folder.resolve("x.safetensors"), bytes.putLong(length).array());
    assertThatThrownBy(() -> Safetensors.open(file).close())
        .isInstanceOf(HalveException.class)
        .hasMessageContaining("header of " + Long.toUnsignedString(length) + " bytes");
  }

  @Test
  void everyTruncationIsRefused() throws IOException {
    Path file = folder.resolve("model.safetensors");
    SafetensorsWriter.write(file, randomTensors(new SplittableRandom(5)), Map.of());
    byte[] whole = Files.readAllBytes(file);
    Path cut = folder.resolve("cut.safetensors");
    for (int length = 0; length < whole.length; length += length < 200 ? 1 : 37) {
      Files.write(cut, Arrays.copyOf(whole, length));
      assertThatThrownBy(() -> Safetensors.open(cut).close())
          .isInstanceOf(HalveException.class)
          .hasMessageContaining(cut.toString());
    }
  }

  @Test
  void mutatedFilesAreReadOrRefusedButNeverBreak() throws IOException {
    Path file = folder.resolve("model.safetensors");
    SafetensorsWriter.write(file, randomTensors(new SplittableRandom(6)), Map.of("k", "v"));
    byte[] whole = Files.readAllBytes(file);
    int header = (int) ByteBuffer.wrap(whole).order(ByteOrder.LITTLE_ENDIAN).getLong();
    SplittableRandom random = new SplittableRandom(20260101);
    int refused = 0;
    for (int round = 0; round < 1000; round++) {
      byte[] mutated = whole.clone();
      for (int i = random.nextInt(1, 4); i > 0; i--) {
        int at = random.nextInt(random.nextInt(10) == 0 ? 8 : 8 + header);
        mutated[at] =
            (byte)
                (random.nextBoolean()
                    ? random.nextInt()
                    : "0123456789,:[]{}\"".charAt(random.nextInt(17)));
      }
      Files.write(file, mutated);
      try (Safetensors read = Safetensors.open(file)) {
        read.names().forEach(read::tensor);
      } catch (HalveException expected) {
        assertThat(expected.getMessage()).contains(file.toString()).doesNotContain("\n");
        refused++;
      }
    }
    assertThat(refused).isBetween(300, 999);
  }

  @Test
  void whatIsMissingIsNamed() {
    assertThatThrownBy(() -> Safetensors.open(folder))
        .isInstanceOf(HalveException.class)
        .hasMessageContaining(folder + ": no model.safetensors");
    assertThatThrownBy(() -> Safetensors.open(folder.resolve("no.safetensors")))
        .isInstanceOf(HalveException.class)
        .hasMessage("cannot read " + folder.resolve("no.safetensors") + ": no such file or folder");
  }

  @Test
  void aTensorThatFailsToLoadLeavesNoFile() {
    Path file = folder.resolve("model.safetensors");
    var entry =
        new SafetensorsWriter.Entry(
            "a",
            DType.F32,
            Shape.of(2),
            _ -> {
              throw new HalveException("the source is gone");
            });
    assertThatThrownBy(() -> SafetensorsWriter.write(file, List.of(entry), Map.of()))
        .isInstanceOf(HalveException.class);
    assertThat(folder).isEmptyDirectory();
  }

  @Test
  void tensorsAreLoadedOneAtATimeAndReleased() {
    Path file = folder.resolve("model.safetensors");
    Tensor[] previous = new Tensor[1];
    List<SafetensorsWriter.Entry> entries =
        java.util.stream.IntStream.range(0, 5)
            .mapToObj(i ->
                new SafetensorsWriter.Entry(
                    "t" + i,
                    DType.F32,
                    Shape.of(3),
                    own -> {
                      if (previous[0] != null) {
                        assertThat(previous[0].segment().scope().isAlive()).isFalse();
                      }
                      previous[0] = Tensor.of(own, new float[] {i, i, i}, 3);
                      return previous[0];
                    }))
            .toList();
    SafetensorsWriter.write(file, entries, Map.of());
    try (Safetensors read = Safetensors.open(file)) {
      assertThat(read.tensor("t4").toFloatArray()).containsExactly(4, 4, 4);
    }
  }

  private SequencedMap<String, Tensor> randomTensors(SplittableRandom random) {
    SequencedMap<String, Tensor> tensors = new LinkedHashMap<>();
    for (DType dtype : DType.values()) {
      for (long[] extents : List.of(new long[] {}, new long[] {0}, new long[] {3, 5})) {
        Tensor tensor = Tensor.allocate(arena, dtype, extents);
        for (long i = 0; i < tensor.bytes(); i++) {
          tensor.segment().set(ValueLayout.JAVA_BYTE, i, (byte) random.nextInt());
        }
        tensors.put("layer." + dtype + "." + extents.length, tensor);
      }
    }
    return tensors;
  }

  private static void assertSame(Tensor found, Tensor expected) {
    assertThat(found.toString()).isEqualTo(expected.toString());
    assertThat(found.segment().mismatch(expected.segment())).isEqualTo(-1);
  }

  private Path written(String header, int... data) throws IOException {
    byte[] json = header.getBytes(StandardCharsets.UTF_8);
    ByteBuffer bytes =
        ByteBuffer.allocate(8 + json.length + data.length).order(ByteOrder.LITTLE_ENDIAN);
    bytes.putLong(json.length).put(json);
    for (int value : data) {
      bytes.put((byte) value);
    }
    return Files.write(folder.resolve("hand.safetensors"), bytes.array());
  }
}
