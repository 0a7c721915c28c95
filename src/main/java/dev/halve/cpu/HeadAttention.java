package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.LANES;

import jdk.incubator.vector.FloatVector;
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
      exponentials(tileTokens, tokens, stripes * stripeRows);
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
      divide(tileTokens, out + token * outPitch, outPitch);
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
    int whole = headSize / LANES * LANES;
    for (int key = 0; key < tokens; key++) {
      long from = v + key * pitch;
      long to = values + key * (long) width * Float.BYTES;
      for (int i = 0; i < whole; i += LANES) {
        long at = i * (long) Float.BYTES;
        Memory.setVector(to + at, Memory.vector(from + at));
      }
      for (int i = whole; i < headSize; i++) {
        long at = i * (long) Float.BYTES;
        Memory.setFloat(to + at, Memory.getFloat(from + at));
      }
    }
  }

  /**
   * Replaces the scores of {@code [tokens, keys]} by their exponentials, less each token's greatest
   * score, and keeps their sums. The padding's scores are of no key: it gets the least exponential.
   */
  private void exponentials(int tokens, int keyCount, int padded) {
    for (int token = 0; token < tokens; token++) {
      long row = scores + token * (long) padded * Float.BYTES;
      for (int key = keyCount; key < padded; key++) {
        Memory.setFloat(row + key * (long) Float.BYTES, Float.NEGATIVE_INFINITY);
      }
      FloatVector greatest = Memory.vector(row);
      for (int key = LANES; key < padded; key += LANES) {
        // Math.max's rules for NaN and zeros, which `max` keeps, cost four instructions here.
        FloatVector score = Memory.vector(row + key * (long) Float.BYTES);
        greatest = greatest.blend(score, score.compare(VectorOperators.GT, greatest));
      }
      float shift = -greatest.reduceLanes(VectorOperators.MAX) * scale;
      FloatVector sum = FloatVector.zero(FLOATS);
      for (int key = 0; key < padded; key += LANES) {
        long at = row + key * (long) Float.BYTES;
        FloatVector score = Memory.vector(at);
        FloatVector e = VectorMath.expOfScore(score.lanewise(VectorOperators.FMA, scale, shift));
        Memory.setVector(at, e);
        sum = sum.add(e);
      }
      Memory.setFloat(sums + token * (long) Float.BYTES, VectorMath.sum(sum));
    }
  }

  /** Divides the result by the sums of the exponentials, into {@code out}. */
  private void divide(int tokens, long out, long outPitch) {
    int whole = headSize / LANES * LANES;
    for (int token = 0; token < tokens; token++) {
      float reciprocal = 1 / Memory.getFloat(sums + token * (long) Float.BYTES);
      long from = result + token * (long) width * Float.BYTES;
      long to = out + token * outPitch;
      for (int i = 0; i < whole; i += LANES) {
        long at = i * (long) Float.BYTES;
        Memory.setVector(to + at, Memory.vector(from + at).mul(reciprocal));
      }
      for (int i = whole; i < headSize; i++) {
        long at = i * (long) Float.BYTES;
        Memory.setFloat(to + at, Memory.getFloat(from + at) * reciprocal);
      }
    }
  }
}
