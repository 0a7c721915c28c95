package dev.halve.core.io;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.nio.channels.FileChannel;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.SequencedMap;
import java.util.SequencedSet;
import java.util.concurrent.ConcurrentHashMap;

/**
 * The tensors of a safetensors file, or of the shards that a {@code model.safetensors.index.json}
 * lists, mapped into memory: opening reads the headers alone. The format is the one published by
 * Hugging Face; everything a header claims is checked against the file before it is believed.
 *
 * <p>The mapping must not outlive changes to the file: replace files as {@link AtomicFile} does.
 */
public final class Safetensors implements Weights {
  private static final String SINGLE = "model.safetensors";
  private static final String INDEX = "model.safetensors.index.json";

  private record Entry(MemorySegment shard, SafetensorsHeader.Entry entry) {}

  private final Path path;
  private final Arena arena;
  private final SequencedMap<String, Entry> entries = new LinkedHashMap<>();
  private final Map<String, String> metadata = new LinkedHashMap<>();
  private final Map<String, Tensor> copies = new ConcurrentHashMap<>();

  private Safetensors(Path path, Arena arena) {
    this.path = path;
    this.arena = arena;
  }

  /**
   * Opens a {@code .safetensors} file, an index of shards ({@code .index.json}), or a folder with
   * {@code model.safetensors} or {@code model.safetensors.index.json} in it.
   *
   * @throws HalveException if a file is missing, cut off, or not what its header says
   */
  @SuppressWarnings("MustBeClosedChecker") // the opened file owns the arena, or it is closed below
  public static Safetensors open(Path path) {
    Path file = Files.isDirectory(path) ? find(path) : path;
    Safetensors opened = new Safetensors(file, Arena.ofShared());
    try {
      if (file.getFileName().toString().endsWith(".json")) {
        opened.addShards(SafetensorsIndex.read(file));
      } else {
        opened.addAll(file);
      }
      return opened;
    } catch (RuntimeException failure) {
      opened.close();
      throw failure;
    }
  }

  private static Path find(Path folder) {
    for (String name : new String[] {SINGLE, INDEX}) {
      if (Files.exists(folder.resolve(name))) {
        return folder.resolve(name);
      }
    }
    throw new HalveException(
        folder + ": no " + SINGLE + " and no " + INDEX + " in this folder; is it a model folder?");
  }

  private void addAll(Path file) {
    MemorySegment mapped = map(file);
    SafetensorsHeader header = SafetensorsHeader.read(mapped, file.toString());
    header.entries().forEach((name, entry) -> entries.put(name, new Entry(mapped, entry)));
    metadata.putAll(header.metadata());
  }

  private void addShards(SequencedMap<String, String> index) {
    Map<String, MemorySegment> mappings = new HashMap<>();
    Map<String, SafetensorsHeader> headers = new HashMap<>();
    index.forEach((name, shard) -> {
      Path file = path.resolveSibling(shard);
      MemorySegment mapped = mappings.computeIfAbsent(shard, _ -> map(file));
      SafetensorsHeader header =
          headers.computeIfAbsent(shard, _ -> SafetensorsHeader.read(mapped, file.toString()));
      SafetensorsHeader.Entry entry = header.entries().get(name);
      if (entry == null) {
        throw new HalveException(
            path + ": tensor '" + name + "' is not in " + shard + ", where the index has it");
      }
      entries.put(name, new Entry(mapped, entry));
      metadata.putAll(header.metadata());
    });
  }

  private MemorySegment map(Path file) {
    try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
      return channel.map(FileChannel.MapMode.READ_ONLY, 0, channel.size(), arena);
    } catch (IOException failure) {
      throw HalveException.of("read", file, failure);
    }
  }

  @Override
  public SequencedSet<String> names() {
    return Collections.unmodifiableSequencedSet(entries.sequencedKeySet());
  }

  /** {@inheritDoc} A view of the mapped file, or a copy where the file has it unaligned. */
  @Override
  public Tensor tensor(String name) {
    return isView(name)
        ? tensor(arena, name)
        : copies.computeIfAbsent(name, _ -> tensor(arena, name));
  }

  @Override
  public Tensor tensor(Arena owner, String name) {
    Entry found = found(name);
    SafetensorsHeader.Entry entry = found.entry();
    MemorySegment data = found.shard().asSlice(entry.offset(), entry.bytes());
    if (isView(name)) {
      return new Tensor(entry.dtype(), entry.shape(), data);
    }
    Tensor copy = Tensor.allocate(owner, entry.dtype(), entry.shape().extents());
    copy.segment().copyFrom(data);
    return copy;
  }

  private Entry found(String name) {
    Entry found = entries.get(name);
    if (found == null) {
      throw new HalveException(path + ": no tensor named '" + name + "'");
    }
    return found;
  }

  /** Whether the file has a tensor where its type can be read. */
  private boolean isView(String name) {
    Entry found = found(name);
    long address = found.shard().address() + found.entry().offset();
    return address % found.entry().dtype().bytes() == 0;
  }

  /** The free text that the file carries, {@code format} and the like; empty if none. */
  public Map<String, String> metadata() {
    return Collections.unmodifiableMap(metadata);
  }

  @Override
  public String origin() {
    return path.toString();
  }

  @Override
  public void close() {
    if (arena.scope().isAlive()) {
      arena.close();
    }
  }
}
