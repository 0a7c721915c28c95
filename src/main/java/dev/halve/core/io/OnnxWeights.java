package dev.halve.core.io;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import java.io.IOException;
import java.io.InputStream;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Collections;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.SequencedMap;
import java.util.SequencedSet;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * The weights of an encoder exported from PyTorch to ONNX, under their Hugging Face names.
 *
 * <p>The exporter keeps the names of biases, norms and embeddings. A linear weight it stores
 * transposed, {@code [in, out]}, under a number; it takes its name from the MatMul node that uses
 * it: the weight of {@code /encoder/layer.0/attention/self/query/MatMul} is {@code
 * encoder.layer.0.attention.self.query.weight} {@code [out, in]}, as in PyTorch.
 */
public final class OnnxWeights implements Weights {
  private static final Pattern LINEAR_NODE = Pattern.compile("/?(.+)/MatMul(_\\d+)?");

  /** Protobuf's own limit for one message. */
  private static final long MAX_BYTES = Integer.MAX_VALUE;

  private record Entry(OnnxGraph.Initializer stored, boolean transposed) {}

  private final String origin;
  private final Arena arena;
  private final MemorySegment file;
  private final SequencedMap<String, Entry> entries;
  private final Map<String, Tensor> copies = new ConcurrentHashMap<>();

  private OnnxWeights(String origin, Arena arena, MemorySegment file) {
    this.origin = origin;
    this.arena = arena;
    this.file = file;
    try {
      this.entries = named(OnnxGraph.read(file));
    } catch (HalveException lie) {
      throw lie.in(origin);
    }
  }

  /**
   * Maps an ONNX file into memory and reads its graph.
   *
   * @throws HalveException if the file cannot be read, is cut off, is no ONNX model, or keeps its
   *     weights in other files
   */
  @SuppressWarnings("MustBeClosedChecker") // the weights own the arena, or it is closed below
  public static OnnxWeights open(Path path) {
    Arena arena = Arena.ofShared();
    try (FileChannel channel = FileChannel.open(path, StandardOpenOption.READ)) {
      if (channel.size() > MAX_BYTES) {
        throw tooLarge(path.toString());
      }
      MemorySegment file = channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), arena);
      return new OnnxWeights(path.toString(), arena, file);
    } catch (IOException failure) {
      arena.close();
      throw HalveException.of("read", path, failure);
    } catch (RuntimeException failure) {
      arena.close();
      throw failure;
    }
  }

  /**
   * Reads an ONNX model to the end of a stream, a resource of a jar for one, into memory outside
   * the heap. The caller closes the stream.
   *
   * @param origin what messages call the model
   * @throws HalveException as for {@link #open}
   */
  @SuppressWarnings("MustBeClosedChecker") // the weights own the arena, or it is closed below
  public static OnnxWeights read(InputStream in, String origin) {
    Arena arena = Arena.ofShared();
    try {
      byte[] chunk = new byte[1 << 16];
      // A jar's stream knows how much is left, so that this is the right size at once.
      MemorySegment buffer =
          arena.allocate(Math.max(in.available(), chunk.length), Tensor.ALIGNMENT);
      long size = 0;
      for (int count = in.read(chunk); count >= 0; count = in.read(chunk)) {
        if (size + count > MAX_BYTES) {
          throw tooLarge(origin);
        }
        if (size + count > buffer.byteSize()) {
          Arena larger = Arena.ofShared();
          MemorySegment copy =
              larger.allocate(Math.min(2 * buffer.byteSize(), MAX_BYTES), Tensor.ALIGNMENT);
          MemorySegment.copy(buffer, 0, copy, 0, size);
          arena.close();
          arena = larger;
          buffer = copy;
        }
        MemorySegment.copy(chunk, 0, buffer, ValueLayout.JAVA_BYTE, size, count);
        size += count;
      }
      return new OnnxWeights(origin, arena, buffer.asSlice(0, size));
    } catch (IOException failure) {
      arena.close();
      throw new HalveException("cannot read " + origin + ": " + failure.getMessage(), failure);
    } catch (RuntimeException failure) {
      arena.close();
      throw failure;
    }
  }

  private static HalveException tooLarge(String origin) {
    return new HalveException(
        origin + ": over 2 GiB, which no ONNX file can be; was it cut from a larger model?");
  }

  /** Every initializer under its own name, but for linear weights: under that of their layer. */
  private static SequencedMap<String, Entry> named(OnnxGraph graph) {
    SequencedMap<String, Entry> named = new LinkedHashMap<>();
    Set<String> renamed = new HashSet<>();
    for (OnnxGraph.MatMul matMul : graph.matMuls()) {
      OnnxGraph.Initializer weight = graph.initializers().get(matMul.weight());
      Matcher node = LINEAR_NODE.matcher(matMul.name());
      if (weight == null || weight.shape().rank() != 2 || !node.matches()) {
        continue;
      }
      renamed.add(matMul.weight());
      String name = node.group(1).replace('/', '.') + ".weight";
      if (named.put(name, new Entry(weight, true)) != null) {
        throw new HalveException("two weights would be named '" + name + "'");
      }
    }
    graph
        .initializers()
        .forEach((name, weight) -> {
          if (!renamed.contains(name) && named.put(name, new Entry(weight, false)) != null) {
            throw new HalveException("two weights would be named '" + name + "'");
          }
        });
    return named;
  }

  @Override
  public SequencedSet<String> names() {
    return Collections.unmodifiableSequencedSet(entries.sequencedKeySet());
  }

  /** {@inheritDoc} A copy where the file has it transposed or unaligned, made once. */
  @Override
  public Tensor tensor(String name) {
    Entry entry = entry(name);
    return isView(entry)
        ? tensor(arena, name)
        : copies.computeIfAbsent(name, _ -> tensor(arena, name));
  }

  @Override
  public Tensor tensor(Arena owner, String name) {
    Entry entry = entry(name);
    OnnxGraph.Initializer stored = entry.stored();
    MemorySegment data = file.asSlice(stored.offset(), stored.bytes());
    if (entry.transposed()) {
      return new Tensor(stored.dtype(), stored.shape(), data).transposed(owner);
    }
    if (isView(entry)) {
      return new Tensor(stored.dtype(), stored.shape(), data.asReadOnly());
    }
    Tensor copy = Tensor.allocate(owner, stored.dtype(), stored.shape().extents());
    copy.segment().copyFrom(data);
    return copy;
  }

  private Entry entry(String name) {
    Entry entry = entries.get(name);
    if (entry == null) {
      throw new HalveException(origin + ": no tensor named '" + name + "'");
    }
    return entry;
  }

  private boolean isView(Entry entry) {
    OnnxGraph.Initializer stored = entry.stored();
    return !entry.transposed() && (file.address() + stored.offset()) % stored.dtype().bytes() == 0;
  }

  @Override
  public String origin() {
    return origin;
  }

  @Override
  public void close() {
    if (arena.scope().isAlive()) {
      arena.close();
    }
  }
}
