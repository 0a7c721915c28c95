package dev.halve.core.sparsify;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.util.List;

/**
 * An order of a layer's inputs in which 2:4 pruning keeps more magnitude. The model stays the same
 * function if every weight that reads the channels takes {@link #permuteInputs} and everything that
 * produces them {@link #permuteOutputs}. Pool and Yu, "Channel Permutations for N:M Sparsity",
 * NeurIPS 2021, as in NVIDIA's ASP.
 */
public final class ChannelPermutation {
  private final int[] order;
  private final double keptBefore;
  private final double keptAfter;
  private final double total;

  ChannelPermutation(int[] order, double keptBefore, double keptAfter, double total) {
    this.order = order;
    this.keptBefore = keptBefore;
    this.keptAfter = keptAfter;
    this.total = total;
  }

  /**
   * Searches for a good order; the same arguments give the same one, on any number of threads.
   *
   * @param importances host tensors {@code [rows, in]} of every weight that reads the channels;
   *     what counts is the magnitude of an element, so either weights or weights times the norms of
   *     their inputs
   * @param segment channels only move within segments of this many: {@code in} where they are free,
   *     the size of a head where they are a head's; a multiple of 4
   * @param escapes how often the search starts again from a disturbed result; 0 is quickest
   * @throws HalveException if the shapes do not fit each other, or an element is not finite
   */
  public static ChannelPermutation search(
      List<Tensor> importances, int segment, int escapes, long seed) {
    int in = Math.toIntExact(importances.getFirst().extent(1));
    if (segment < 4 || segment % 4 != 0 || in % segment != 0) {
      throw new HalveException(
          in + " channels in segments of " + segment + "; expected multiples of 4 that fit");
    }
    for (Tensor importance : importances) {
      if (importance.shape().rank() != 2 || importance.extent(1) != in) {
        throw new HalveException(
            "a weight " + importance + " among those of " + in + " inputs; expected [out, in]");
      }
      importance.requireFinite("a weight");
    }
    return new PermutationSearch(importances, segment, seed).search(escapes);
  }

  /** Where each channel comes from: channel {@code order()[i]} moves to {@code i}. */
  public int[] order() {
    return order.clone();
  }

  /** The permutation that brings every channel back. */
  public ChannelPermutation inverse() {
    int[] inverse = new int[order.length];
    for (int i = 0; i < order.length; i++) {
      inverse[order[i]] = i;
    }
    return new ChannelPermutation(inverse, keptAfter, keptBefore, total);
  }

  /** The magnitude that 2:4 pruning keeps in the order the channels had. */
  public double keptBefore() {
    return keptBefore;
  }

  /** The magnitude that 2:4 pruning keeps in the new order. */
  public double keptAfter() {
    return keptAfter;
  }

  /** The magnitude of all elements, which no order can exceed. */
  public double total() {
    return total;
  }

  /** A weight {@code [out, in]} with its columns in the new order, owned by the arena. */
  public Tensor permuteInputs(Arena arena, Tensor weight) {
    if (weight.shape().rank() != 2 || weight.extent(1) != order.length) {
      throw new IllegalArgumentException(weight + " for an order of " + order.length);
    }
    Tensor result = Tensor.allocate(arena, weight.dtype(), weight.shape().extents());
    long width = weight.dtype().bytes();
    for (long row = 0; row < weight.extent(0); row++) {
      long start = row * order.length;
      for (int i = 0; i < order.length; i++) {
        copy(weight, start + order[i], result, start + i, width);
      }
    }
    return result;
  }

  /** A weight {@code [out, in]} or bias {@code [out]} with its rows in the new order. */
  public Tensor permuteOutputs(Arena arena, Tensor weight) {
    if (weight.shape().rank() < 1 || weight.extent(0) != order.length) {
      throw new IllegalArgumentException(weight + " for an order of " + order.length);
    }
    Tensor result = Tensor.allocate(arena, weight.dtype(), weight.shape().extents());
    long rowBytes = weight.bytes() / order.length;
    for (int i = 0; i < order.length; i++) {
      copy(weight, order[i], result, i, rowBytes);
    }
    return result;
  }

  private static void copy(Tensor from, long source, Tensor to, long target, long bytes) {
    MemorySegment.copy(from.segment(), source * bytes, to.segment(), target * bytes, bytes);
  }
}
