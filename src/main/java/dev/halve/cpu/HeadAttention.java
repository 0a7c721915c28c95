package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;

/**
 * Attention of one head over one row of tokens, for inference, by the dense tiles: a few queries at
 * a time against all keys, so that their scores never leave the first-level cache. Keys are laid
 * out as a dense weight first, values copied side by side. One instance for each member of a team.
 *
 * <pre>
 * keys   [stripes][headSize][stripeRows]   a stripe is {@code stripeRows} keys, the last padded
 * values [keys][width]                     width: headSize padded to whole stripes
 * scores [tileTokens][stripes * stripeRows]
 * result [tileTokens][width]
 * </pre>
 */
final class HeadAttention {
  private final TileKernels kernels;
  private final int headSize;
  private final int width;
  private final long keys;
  private final long values;
  private final long scores;
  private final long result;
  private final long sums;
  private final long zeros;
  private final float scale;

  /**
   * @param memory address of {@link #bytes}
   */
  HeadAttention(TileKernels kernels, int headSize, int mostKeys, long memory) {
    int rows = kernels.rows();
    int paddedKeys = roundUp(mostKeys, rows);
    this.kernels = kernels;
    this.headSize = headSize;
    this.width = roundUp(headSize, rows);
    this.keys = memory;
    this.values = keys + floats(paddedKeys, headSize);
    this.scores = values + floats(mostKeys, width);
    this.result = scores + floats(kernels.mostTokens(), paddedKeys);
    this.sums = result + floats(kernels.mostTokens(), width);
    this.zeros = sums + floats(kernels.mostTokens(), 1);
    this.scale = (float) (1 / Math.sqrt(headSize));
  }

  /** Zeroed memory that an instance needs, aligned to a cache line. */
  static long bytes(TileKernels kernels, int headSize, int mostKeys) {
    int rows = kernels.rows();
    int width = roundUp(headSize, rows);
    int paddedKeys = roundUp(mostKeys, rows);
    return floats(paddedKeys, headSize)
        + floats(mostKeys, width)
        + floats(kernels.mostTokens(), paddedKeys)
        + floats(kernels.mostTokens(), width)
        + floats(kernels.mostTokens(), 1)
        + floats(1, rows);
  }

  private static int roundUp(int count, int multiple) {
    return (count + multiple - 1) / multiple * multiple;
  }

  /** Bytes of so many floats, to whole cache lines. */
  private static long floats(int rows, int columns) {
    return roundUp(Math.multiplyExact(rows, columns), 16) * (long) Float.BYTES;
  }

  /**
   * {@code out = softmax(q · kᵀ / sqrt(headSize)) · v}; all arguments are addresses of the row's
   * first token, at the head's first column.
   *
   * @param pitch bytes from a token's queries, keys and values to the next one's
   */
  void run(long q, long k, long v, long pitch, int tokens, long out, long outPitch) {
    int stripeRows = kernels.rows();
    int stripes = (tokens + stripeRows - 1) / stripeRows;
    packKeys(k, pitch, tokens, stripes);
    packValues(v, pitch, tokens);
    long scorePitch = stripes * (long) stripeRows * Float.BYTES;
    long stripeBytes = stripeRows * (long) Float.BYTES;
    long widthBytes = width * (long) Float.BYTES;
    for (int token = 0, chosen; token < tokens; token += kernels.tokens()[chosen]) {
      chosen = kernels.next(tokens - token);
      TileKernel kernel = kernels.kernels()[chosen];
      for (int stripe = 0; stripe < stripes; stripe++) {
        kernel.run(
            keys + stripe * headSize * stripeBytes,
            stripeBytes,
            q + token * pitch,
            pitch,
            zeros,
            scores + stripe * stripeBytes,
            scorePitch,
            headSize);
      }
      // The softmax's division is left to the end: there are fewer results than scores.
      int tileTokens = kernels.tokens()[chosen];
      for (int t = 0; t < tileTokens; t++) {
        float sum = exponentials((scores + t * scorePitch) / Float.BYTES, tokens);
        Memory.setFloat(sums + t * (long) Float.BYTES, sum);
      }
      for (long column = 0; column < widthBytes; column += stripeBytes) {
        kernel.run(
            values + column,
            widthBytes,
            scores,
            scorePitch,
            zeros,
            result + column,
            widthBytes,
            tokens);
      }
      for (int t = 0; t < tileTokens; t++) {
        divide(
            (result + t * widthBytes) / Float.BYTES,
            Memory.getFloat(sums + t * (long) Float.BYTES),
            (out + (token + t) * outPitch) / Float.BYTES);
      }
    }
  }

  private void packKeys(long k, long pitch, int tokens, int stripes) {
    int stripeRows = kernels.rows();
    for (int stripe = 0; stripe < stripes; stripe++) {
      long to = keys + stripe * (long) headSize * stripeRows * Float.BYTES;
      int count = Math.min(stripeRows, tokens - stripe * stripeRows);
      for (int key = 0; key < count; key++) {
        long from = k + (stripe * (long) stripeRows + key) * pitch;
        for (int i = 0; i < headSize; i++) {
          float value = Memory.getFloat(from + i * (long) Float.BYTES);
          Memory.setFloat(to + ((long) i * stripeRows + key) * Float.BYTES, value);
        }
      }
    }
  }

  private void packValues(long v, long pitch, int tokens) {
    for (int key = 0; key < tokens; key++) {
      long from = (v + key * pitch) / Float.BYTES;
      long to = values / Float.BYTES + key * (long) width;
      for (int i = 0; i < headSize; i += LANES) {
        FloatVector value = VectorMath.load(Memory.ALL, from + i, from + headSize);
        VectorMath.store(value, Memory.ALL, to + i, to + headSize);
      }
    }
  }

  /** Replaces scores by their exponentials, less the greatest score's; returns the sum. */
  private float exponentials(long at, int count) {
    long end = at + count;
    long wholeEnd = at + count / LANES * LANES;
    VectorMask<Float> rest = FLOATS.indexInRange(wholeEnd, end);
    FloatVector greatest = FloatVector.broadcast(FLOATS, Float.NEGATIVE_INFINITY);
    for (long i = at; i < wholeEnd; i += LANES) {
      // Math.max's rules for NaN and zeros, which `max` keeps, cost four instructions here.
      FloatVector score = VectorMath.load(Memory.ALL, i, end);
      greatest = greatest.blend(score, score.compare(VectorOperators.GT, greatest));
    }
    if (wholeEnd < end) {
      FloatVector last = VectorMath.load(Memory.ALL, wholeEnd, end);
      greatest = greatest.max(last.blend(Float.NEGATIVE_INFINITY, rest.not()));
    }
    float shift = -greatest.reduceLanes(VectorOperators.MAX) * scale;
    FloatVector sum = FloatVector.zero(FLOATS);
    for (long i = at; i < wholeEnd; i += LANES) {
      FloatVector score = VectorMath.load(Memory.ALL, i, end);
      FloatVector e = VectorMath.expOfScore(score.lanewise(VectorOperators.FMA, scale, shift));
      VectorMath.store(e, Memory.ALL, i, end);
      sum = sum.add(e);
    }
    if (wholeEnd < end) {
      FloatVector score = VectorMath.load(Memory.ALL, wholeEnd, end);
      FloatVector e = VectorMath.expOfScore(score.lanewise(VectorOperators.FMA, scale, shift));
      VectorMath.store(e, Memory.ALL, wholeEnd, end);
      sum = sum.add(e.blend(0f, rest.not()));
    }
    return VectorMath.sum(sum);
  }

  private void divide(long from, float divisor, long to) {
    float reciprocal = 1 / divisor;
    for (int i = 0; i < headSize; i += LANES) {
      FloatVector value = VectorMath.load(Memory.ALL, from + i, from + headSize);
      VectorMath.store(value.mul(reciprocal), Memory.ALL, to + i, to + headSize);
    }
  }
}
