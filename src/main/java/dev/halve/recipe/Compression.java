package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Linear;
import dev.halve.engine.Weight;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

/** Turns pruned weights into values and metadata, and back. */
public final class Compression {
  private Compression() {}

  /**
   * Compresses every encoder weight that is 2:4, as a whole or in blocks of its rows, after
   * checking that it decompresses to the same bits; the dense form is freed.
   *
   * @return the names of the weights that are not 2:4; they stay dense
   */
  public static List<String> compress(BertForQuestionAnswering model) {
    List<String> leftDense = new ArrayList<>();
    for (Linear linear : model.bert().linears()) {
      if (linear.weight() instanceof Weight.Compressed
          || linear.weight() instanceof Weight.Hybrid) {
        continue;
      }
      try (Arena arena = Arena.ofConfined()) {
        Tensor weight = linear.weight(arena);
        if (!SparsityPattern.of(weight).semiStructured()) {
          if (HybridTensor.fits(weight)) {
            HybridTensor hybrid = HybridTensor.compress(arena, weight);
            requireSame(linear.name() + ".weight", weight, hybrid.decompress(arena));
            linear.setHybrid(hybrid);
          } else {
            leftDense.add(linear.name() + ".weight");
          }
          continue;
        }
        SparseSemiStructuredTensor compressed = SparseSemiStructuredTensor.compress(arena, weight);
        requireSame(linear.name() + ".weight", weight, compressed.decompress(arena));
        linear.setCompressed(compressed);
      }
    }
    return leftDense;
  }

  /** Decompresses every encoder weight that is compressed. */
  public static void decompress(BertForQuestionAnswering model) {
    model.bert().linears().forEach(Linear::toDense);
  }

  /** The same bits, where a zero that was dropped may have lost its sign. */
  private static void requireSame(String name, Tensor before, Tensor after) {
    if (before.segment().mismatch(after.segment()) < 0) {
      return;
    }
    for (long i = 0; i < before.elements(); i++) {
      float was = before.getFloat(i);
      float is = after.getFloat(i);
      if (Float.floatToRawIntBits(was) != Float.floatToRawIntBits(is) && (was != 0 || is != 0)) {
        throw new HalveException(
            "%s does not survive compression: element %d is %s and comes back as %s; report this"
                .formatted(name, i, was, is));
      }
    }
  }
}
