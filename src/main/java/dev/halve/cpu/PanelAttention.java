package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorOperators;

/**
 * Attention of one head over one row of tokens, for inference: a stripe of queries at a time
 * against all keys. Queries stand in lanes from the scores to the result, so that softmax runs down
 * the keys and nothing is turned about. One instance for each member of a team.
 *
 * <pre>
 * queries, keys, values [headSize][tokens]
 * scores                [keys][stripe]     of one stripe of queries
 * </pre>
 */
final class PanelAttention {
  /** Vectors of queries that meet the keys together. */
  private static final int STRIPE = 2;

  private final PanelKernels kernels;
  private final int headSize;
  private final long queries;
  private final long keys;
  private final long values;
  private final long scores;
  private final float scale;

  /**
   * @param memory address of {@link #bytes}
   */
  PanelAttention(PanelKernels kernels, int headSize, int mostKeys, long memory) {
    this.kernels = kernels;
    this.headSize = headSize;
    long each = headSize * pitch(kernels.lanes(), mostKeys);
    this.queries = memory;
    this.keys = queries + each;
    this.values = keys + each;
    this.scores = values + each;
    this.scale = (float) (1 / Math.sqrt(headSize));
  }

  /** Memory that an instance needs, aligned to a cache line. */
  static long bytes(PanelKernels kernels, int headSize, int mostKeys) {
    long scores = (long) mostKeys * STRIPE * kernels.lanes() * Float.BYTES;
    return 3 * headSize * pitch(kernels.lanes(), mostKeys) + scores;
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
    for (int vector = 0; vector < vectors; vector += STRIPE) {
      int width = Math.min(STRIPE, vectors - vector);
      DenseTiles tiles = kernels.dense()[PanelKernels.logarithm(width)];
      long stripe = queries + (long) vector * lanes * Float.BYTES;
      long stripeBytes = (long) width * lanes * Float.BYTES;
      tiles.run(count, keys, Float.BYTES, pitch, stripe, pitch, scores, stripeBytes, headSize);
      // The results take the place of the queries that gave them; their division is done here, by
      // the values' fewer rows.
      for (long at = 0; at < stripeBytes; at += LANES * (long) Float.BYTES) {
        softmax(scores + at, stripeBytes, count, scale);
      }
      tiles.run(headSize, values, pitch, Float.BYTES, scores, stripeBytes, stripe, pitch, count);
    }
    scatter(panels, first, count, queries, pitch, out, outputFeatures, to);
  }

  /**
   * Softmax down one vector of {@code [keys][stripe]}. All in one method: large, so that the JIT
   * compiles it alone. Inlined with all around it, it would leave no room for a call, whose vectors
   * are then allocated.
   */
  private static void softmax(long column, long pitch, int count, float scale) {
    FloatVector greatest = Memory.vector(column);
    for (int key = 1; key < count; key++) {
      // Math.max's rules for NaN and zeros, which `max` keeps, cost four instructions here.
      FloatVector score = Memory.vector(column + key * pitch);
      greatest = greatest.blend(score, score.compare(VectorOperators.GT, greatest));
    }
    FloatVector factor = FloatVector.broadcast(FLOATS, scale);
    FloatVector shift = greatest.mul(-scale);
    FloatVector sum = FloatVector.zero(FLOATS);
    for (int key = 0; key < count; key++) {
      long at = column + key * pitch;
      // As VectorMath.exp, for arguments up to 0; e^-87 below -87. The lowest bits of the rounded
      // sum are the integer itself.
      FloatVector x = Memory.vector(at).fma(factor, shift);
      x = x.blend(-87f, x.compare(VectorOperators.LT, -87f));
      FloatVector shifted = x.lanewise(VectorOperators.FMA, VectorMath.LOG2_E, 12582912f);
      FloatVector n = shifted.sub(12582912f);
      FloatVector r = n.lanewise(VectorOperators.FMA, -VectorMath.LN2_HIGH, x);
      r = n.lanewise(VectorOperators.FMA, -VectorMath.LN2_LOW, r);
      FloatVector p = FloatVector.broadcast(FLOATS, 1f / 5040);
      p = p.fma(r, FloatVector.broadcast(FLOATS, 1f / 720));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 1f / 120));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 1f / 24));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 1f / 6));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 0.5f));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 1f));
      p = p.fma(r, FloatVector.broadcast(FLOATS, 1f));
      IntVector exponent = shifted.reinterpretAsInts().lanewise(VectorOperators.LSHL, 23);
      FloatVector e = p.reinterpretAsInts().add(exponent).reinterpretAsFloats();
      Memory.setVector(at, e);
      sum = sum.add(e);
    }
    FloatVector reciprocal = FloatVector.broadcast(FLOATS, 1f).div(sum);
    for (int key = 0; key < count; key++) {
      long at = column + key * pitch;
      Memory.setVector(at, Memory.vector(at).mul(reciprocal));
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
        for (long at = 0; at < (end - token) * (long) Float.BYTES; at += LANES * Float.BYTES) {
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
