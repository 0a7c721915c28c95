package dev.halve.core.io;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.channels.FileChannel;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.SequencedMap;
import java.util.Set;
import java.util.function.Function;

/**
 * Writes safetensors files, all or nothing ({@link AtomicFile}), one tensor at a time.
 *
 * <p>Wider types come first and the data begin at a multiple of 64 bytes, so that a mapping of the
 * file has every tensor aligned for its type. The same tensors give the same bytes.
 */
public final class SafetensorsWriter {
  private static final long CHUNK = 64L << 20;

  /**
   * A tensor that is yet to be read or computed: what the header needs to know, and how to get it.
   * The arena it gets closes as soon as the tensor is written.
   */
  public record Entry(String name, DType dtype, Shape shape, Function<Arena, Tensor> load) {
    /** The same tensor, got in another way. */
    public Entry withLoad(Function<Arena, Tensor> other) {
      return new Entry(name, dtype, shape, other);
    }

    /** Bytes of the tensor. */
    public long bytes() {
      return shape.elements() * dtype.bytes();
    }

    /** Writes the tensor's bytes where the channel stands. */
    void writeTo(FileChannel channel) throws IOException {
      try (Arena arena = Arena.ofConfined()) {
        Tensor tensor = load.apply(arena);
        if (tensor.dtype() != dtype || !tensor.shape().equals(shape) || !tensor.onHost()) {
          throw new IllegalStateException(
              "tensor '" + name + "' was announced as another than " + tensor);
        }
        MemorySegment data = tensor.segment();
        for (long offset = 0; offset < data.byteSize(); offset += CHUNK) {
          long count = Math.min(CHUNK, data.byteSize() - offset);
          AtomicFile.writeFully(channel, data.asSlice(offset, count).asByteBuffer());
        }
      }
    }
  }

  private SafetensorsWriter() {}

  /**
   * Writes host tensors under their names.
   *
   * @param metadata free text for the header, {@code {"format": "pt"}} for what PyTorch may read
   * @throws HalveException if the file cannot be written; a file of that name stays as it was
   */
  public static void write(
      Path file, SequencedMap<String, Tensor> tensors, Map<String, String> metadata) {
    write(
        file,
        tensors.entrySet().stream()
            .map(tensor ->
                new Entry(
                    tensor.getKey(),
                    tensor.getValue().dtype(),
                    tensor.getValue().shape(),
                    _ -> tensor.getValue()))
            .toList(),
        metadata);
  }

  /** As above, holding one tensor at a time: for models that are larger than memory. */
  public static void write(Path file, List<Entry> tensors, Map<String, String> metadata) {
    List<Entry> ordered =
        tensors.stream()
            .sorted(Comparator.comparingInt((Entry entry) -> entry.dtype().bytes()).reversed())
            .toList();
    byte[] header = header(ordered, metadata);
    AtomicFile.write(
        file,
        channel -> {
          ByteBuffer length = ByteBuffer.allocate(Long.BYTES).order(ByteOrder.LITTLE_ENDIAN);
          AtomicFile.writeFully(channel, length.putLong(header.length).flip());
          AtomicFile.writeFully(channel, ByteBuffer.wrap(header));
          for (Entry entry : ordered) {
            entry.writeTo(channel);
          }
        });
  }

  private static byte[] header(List<Entry> ordered, Map<String, String> metadata) {
    Map<String, Object> header = new LinkedHashMap<>();
    if (!metadata.isEmpty()) {
      header.put("__metadata__", metadata);
    }
    Set<String> names = new HashSet<>(Set.of("__metadata__"));
    long offset = 0;
    for (Entry entry : ordered) {
      if (!names.add(entry.name())) {
        throw new IllegalArgumentException("two tensors named '" + entry.name() + "'");
      }
      long end = offset + entry.bytes();
      Map<String, Object> description = new LinkedHashMap<>();
      description.put("dtype", entry.dtype().name());
      description.put("shape", entry.shape().extents());
      description.put("data_offsets", new long[] {offset, end});
      header.put(entry.name(), description);
      offset = end;
    }
    String json = Json.compact(header);
    byte[] bytes = json.getBytes(StandardCharsets.UTF_8);
    int padding = (int) Math.floorMod(-(long) Long.BYTES - bytes.length, Tensor.ALIGNMENT);
    return (json + " ".repeat(padding)).getBytes(StandardCharsets.UTF_8);
  }
}
