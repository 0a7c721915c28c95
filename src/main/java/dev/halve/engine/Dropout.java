package dev.halve.engine;

/**
 * Dropout from a counter-based generator: whether an element is kept is a function of the seed and
 * of its place, so that the backward pass finds it again and nothing is stored. Every device
 * computes the same bits.
 *
 * <p>An element at (row, column) has a half of the word {@code mix((column & ~8) * 0x9E3779B9 +
 * mix(row ^ seed))}, the low half where bit 3 of the column is clear: columns that a thread of a
 * GPU has together share a word. It is dropped when that is below {@code probability * 2^16}; kept
 * elements are scaled by {@code 1 / (1 - probability)}. All arithmetic is on 32-bit words that
 * wrap; {@code mix} is the "lowbias32" integer hash (Ettinger, 2018).
 *
 * @param probability of dropping, in [0, 1)
 * @param stepSeed of this step
 * @param site of this use of dropout in the step: places are numbered in the order in which they
 *     run
 */
public record Dropout(float probability, int stepSeed, int site) {
  /** Keeps everything. */
  public static final Dropout NONE = new Dropout(0, 0, 0);

  public static final int COLUMN_STRIDE = 0x9E3779B9;

  public Dropout {
    if (!(probability >= 0 && probability < 1)) {
      throw new IllegalArgumentException("dropout probability " + probability);
    }
  }

  public boolean isNone() {
    return probability == 0;
  }

  /** Elements whose 16 random bits are below this are dropped. */
  public int threshold() {
    return (int) (probability * (1 << 16));
  }

  /** What kept elements are multiplied by. */
  public float scale() {
    return 1 / (1 - probability);
  }

  /** The seed of the formula above. */
  public int seed() {
    return mix(stepSeed + mix(site));
  }

  /** The part of the hash that a row's elements share. */
  public int rowKey(int row) {
    return mix(row ^ seed());
  }

  public boolean keeps(int row, int column) {
    int both = mix((column & ~8) * COLUMN_STRIDE + rowKey(row));
    return ((column & 8) == 0 ? both & 0xFFFF : both >>> 16) >= threshold();
  }

  public static int mix(int x) {
    x ^= x >>> 16;
    x *= 0x7feb352d;
    x ^= x >>> 15;
    x *= 0x846ca68b;
    x ^= x >>> 16;
    return x;
  }
}
