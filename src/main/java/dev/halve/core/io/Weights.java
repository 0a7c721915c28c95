package dev.halve.core.io;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.util.SequencedSet;

/** Named tensors in a file, whatever its format; they are gone when it is closed. */
public sealed interface Weights extends AutoCloseable permits Safetensors, OnnxWeights {
  /** The names of the tensors, in the order of the file. */
  SequencedSet<String> names();

  /**
   * A tensor in host memory that must not be written to; read only when it is touched, where the
   * format allows it.
   *
   * @throws HalveException if there is none of this name
   */
  Tensor tensor(String name);

  /**
   * The same for one who goes through tensors larger than memory: what has to be copied belongs to
   * the arena and goes with it.
   */
  Tensor tensor(Arena arena, String name);

  /** The file, as messages name it. */
  String origin();

  @Override
  void close();
}
