package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.INTS;
import static dev.halve.cpu.VectorMath.LANES;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;

/**
 * Attention of one head over one row of tokens, for inference: a stripe of queries at a time
 * against blocks of keys, whose scores stay in the first-level cache. Queries stand in lanes from
 * the scores to the result, so that softmax runs down the keys and nothing is turned about. From
 * block to block the greatest score may grow; what is summed so far then shrinks by as much
 * (Milakov and Gimelshein, <a href="https://arxiv.org/abs/1805.02867">arXiv:1805.02867</a>). One
 * instance for each member of a team.
 *
 * <pre>
 * queries, keys, values [headSize][tokens]
 * scores                [block + 1][stripe]      then their exponentials
 * greatest              [stripe]                 score of all blocks so far
 * result, part          [headSize + 1][stripe]   of all blocks so far, and of one; the last row is
 *                                                the sum of the exponentials
 * </pre>
 */
final class PanelAttention {
  private static final long VECTOR_BYTES = LANES * (long) Float.BYTES;

  /** Most vectors of queries that meet the keys together. */
  static final int STRIPE = 3;

  /** Most keys of a block. */
  private static final int BLOCK = 128;

  private final PanelKernels kernels;
  private final int headSize;
  private final long queries;
  private final long keys;
  private final long values;
  private final long scores;
  private final long greatest;
  private final long result;
  private final long part;
  private final float scale;

  /**
   * @param memory address of {@link #bytes}
   */
  PanelAttention(PanelKernels kernels, int headSize, int mostKeys, long memory) {
    this.kernels = kernels;
    this.headSize = headSize;
    long each = headSize * pitch(kernels.lanes(), mostKeys);
    long stripe = stripeBytes(kernels);
    this.queries = memory;
    this.keys = queries + each;
    this.values = keys + each;
    this.scores = values + each;
    this.greatest = scores + (BLOCK + 1) * stripe;
    this.result = greatest + stripe;
    this.part = result + (headSize + 1) * stripe;
    // Of powers of two.
    this.scale = (float) (1 / (Math.log(2) * Math.sqrt(headSize)));
  }

  /** Memory that an instance needs, aligned to a cache line. */
  static long bytes(PanelKernels kernels, int headSize, int mostKeys) {
    return 3L * headSize * pitch(kernels.lanes(), mostKeys)
        + (BLOCK + 2 + 2 * (headSize + 1L)) * stripeBytes(kernels);
  }

  private static long stripeBytes(PanelKernels kernels) {
    return (long) STRIPE * kernels.lanes() * Float.BYTES;
  }

  /** A vector more than the tokens need: copies go on to the end of their last one. */
  private static long pitch(int lanes, int tokens) {
    return (tokens + 2L * lanes - 1) / lanes * lanes * Float.BYTES;
  }

  /**
   * {@code out = softmax(q · kᵀ / sqrt(headSize)) · v} of tokens {@code [first, first + count)}.
   *
   * @param qkv panels of {@code inputFeatures}; a vector beyond the last may be read
   * @param query the head's first feature of the queries in {@code qkv}; the keys' and values' lie
   *     {@code apart} features on each
   * @param out panels of {@code outputFeatures}
   * @param to the head's first feature in {@code out}
   */
  void run(
      Panels panels,
      int first,
      int count,
      long qkv,
      int inputFeatures,
      int query,
      int apart,
      long out,
      int outputFeatures,
      int to) {
    int lanes = kernels.lanes();
    long pitch = pitch(lanes, count);
    gather(panels, first, count, qkv, inputFeatures, query, queries, pitch);
    gather(panels, first, count, qkv, inputFeatures, query + apart, keys, pitch);
    gather(panels, first, count, qkv, inputFeatures, query + 2 * apart, values, pitch);
    int vectors = (count + lanes - 1) / lanes;
    int stripes = (vectors + STRIPE - 1) / STRIPE;
    for (int stripe = 0; stripe < stripes; stripe++) {
      int begin = stripe * vectors / stripes;
      int width = (stripe + 1) * vectors / stripes - begin;
      stripe(queries + (long) begin * lanes * Float.BYTES, pitch, width, count);
    }
    scatter(panels, first, count, queries, pitch, out, outputFeatures, to);
  }

  /** The results of some queries take their place. */
  private void stripe(long stripe, long pitch, int width, int count) {
    DensePanelKernels products = kernels.attention()[width - 1];
    long row = (long) width * kernels.lanes() * Float.BYTES;
    int blocks = (count + BLOCK - 1) / BLOCK;
    for (int block = 0; block < blocks; block++) {
      int begin = block * count / blocks;
      int length = (block + 1) * count / blocks - begin;
      long at = begin * (long) Float.BYTES;
      long to = block == 0 ? result : part;
      products.run(length, keys + at, Float.BYTES, pitch, stripe, pitch, scores, row, headSize);
      for (long column = 0; column < row; column += VECTOR_BYTES) {
        long sum = to + headSize * row + column;
        softmax(scores + column, row, length, scale, block == 0, greatest + column, sum);
      }
      products.run(headSize, values + at, pitch, Float.BYTES, scores, row, to, row, length);
      if (block > 0) {
        for (long column = 0; column < row; column += VECTOR_BYTES) {
          add(part + column, result + column, scores + length * row + column, row, headSize + 1);
        }
      }
    }
    // The division is done here, by the values' fewer rows.
    for (long column = 0; column < row; column += VECTOR_BYTES) {
      divide(result + column, row, stripe + column, pitch, headSize);
    }
  }

  /**
   * The exponentials of a block's scores, of one vector of queries, and their sum; the row behind
   * them becomes the factor by which those of earlier blocks shrink. They are {@code 2^(scale * (x
   * - greatest))}, off by 2e-7 and the rounding of the exponent, and 2^-126 where they would be
   * less.
   *
   * <p>All in one method: large, so that the JIT compiles it alone. Inlined with all around it, it
   * would leave no room for a call, whose vectors are then allocated.
   */
  private static void softmax(
      long column, long row, int count, float scale, boolean begins, long greatest, long sum) {
    FloatVector before = Memory.vector(begins ? column : greatest);
    FloatVector first = before;
    FloatVector second = before;
    // Math.max's rules for NaN and zeros, which `max` keeps, cost four instructions here.
    for (int key = 0; key + 1 < count; key += 2) {
      FloatVector a = Memory.vector(column + key * row);
      FloatVector b = Memory.vector(column + (key + 1) * row);
      first = first.blend(a, a.compare(VectorOperators.GT, first));
      second = second.blend(b, b.compare(VectorOperators.GT, second));
    }
    FloatVector last = Memory.vector(column + (count - 1) * row);
    first = first.blend(last, last.compare(VectorOperators.GT, first));
    first = first.blend(second, second.compare(VectorOperators.GT, first));
    Memory.setVector(greatest, first);
    Memory.setVector(column + count * row, before);
    FloatVector factor = FloatVector.broadcast(FLOATS, scale);
    FloatVector shift = first.mul(-scale);
    FloatVector total = FloatVector.zero(FLOATS);
    // Among negative numbers, the greater of two has the smaller bits; this is one instruction.
    IntVector least = IntVector.broadcast(INTS, Float.floatToRawIntBits(-126f));
    for (int key = 0; key <= count; key++) {
      long at = column + key * row;
      FloatVector x = Memory.vector(at).fma(factor, shift);
      x = x.reinterpretAsInts().lanewise(VectorOperators.UMIN, least).reinterpretAsFloats();
      // Adding 1.5 * 2^23 rounds to the nearest integer, which the lowest bits of the sum are.
      FloatVector shifted = x.add(12582912f);
      FloatVector r = x.sub(shifted.sub(12582912f));
      // 2^r on |r| <= 1/2, exact at 0; own minimax fit, off by 9e-8.
      FloatVector p = FloatVector.broadcast(FLOATS, 1.3264727e-3f);
      p = p.fma(r, FloatVector.broadcast(FLOATS, 9.671513e-3f));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 5.5507336e-2f));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 0.24022242f));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 0.693147f));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 1f));
      IntVector exponent = shifted.reinterpretAsInts().lanewise(VectorOperators.LSHL, 23);
      FloatVector e = p.reinterpretAsInts().add(exponent).reinterpretAsFloats();
      Memory.setVector(at, e);
      if (key < count) {
        total = total.add(e);
      }
    }
    Memory.setVector(sum, total);
  }

  /** {@code to = to * factor + from}, a column of so many rows. */
  private static void add(long from, long to, long factor, long row, int rows) {
    FloatVector by = Memory.vector(factor);
    for (long at = 0; at < rows * row; at += row) {
      Memory.setVector(to + at, Memory.vector(to + at).fma(by, Memory.vector(from + at)));
    }
  }

  /** {@code to = from / sum}, a column of so many rows; the sum is the row behind them. */
  private static void divide(long from, long row, long to, long toPitch, int rows) {
    FloatVector sum = Memory.vector(from + rows * row);
    FloatVector reciprocal = FloatVector.broadcast(FLOATS, 1f).div(sum);
    for (int i = 0; i < rows; i++) {
      Memory.setVector(to + i * toPitch, Memory.vector(from + i * row).mul(reciprocal));
    }
  }

  /** A head's features of some tokens, side by side. */
  private void gather(
      Panels panels,
      int first,
      int count,
      long from,
      int features,
      int feature,
      long to,
      long toPitch) {
    for (int token = first, end; token < first + count; token = end) {
      int panel = panels.panelOf(token);
      end = Math.min(first + count, panels.firstToken(panel + 1));
      long pitch = panels.pitch(panel);
      long source = from + panels.offset(panel, features) + feature * pitch;
      source += (token - panels.firstToken(panel)) * (long) Float.BYTES;
      long target = to + (token - first) * (long) Float.BYTES;
      for (int i = 0; i < headSize; i++) {
        for (long at = 0; at < (end - token) * (long) Float.BYTES; at += VECTOR_BYTES) {
          Memory.setVector(target + i * toPitch + at, Memory.vector(source + i * pitch + at));
        }
      }
    }
  }

  /** The way back; only the tokens themselves are written. */
  private void scatter(
      Panels panels,
      int first,
      int count,
      long from,
      long fromPitch,
      long to,
      int features,
      int feature) {
    for (int token = first, end; token < first + count; token = end) {
      int panel = panels.panelOf(token);
      end = Math.min(first + count, panels.firstToken(panel + 1));
      long pitch = panels.pitch(panel);
      long target = to + panels.offset(panel, features) + feature * pitch;
      target += (token - panels.firstToken(panel)) * (long) Float.BYTES;
      long source = from + (token - first) * (long) Float.BYTES;
      int whole = (end - token) / LANES * LANES;
      for (int i = 0; i < headSize; i++) {
        long row = source + i * fromPitch;
        long place = target + i * pitch;
        for (int t = 0; t < whole; t += LANES) {
          long at = t * (long) Float.BYTES;
          Memory.setVector(place + at, Memory.vector(row + at));
        }
        for (int t = whole; t < end - token; t++) {
          long at = t * (long) Float.BYTES;
          Memory.setFloat(place + at, Memory.getFloat(row + at));
        }
      }
    }
  }
}
