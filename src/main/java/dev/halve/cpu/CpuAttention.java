package dev.halve.cpu;

import static dev.halve.cpu.VectorMath.FLOATS;
import static dev.halve.cpu.VectorMath.INTS;
import static dev.halve.cpu.VectorMath.LANES;

import dev.halve.core.Tensor;
import dev.halve.engine.Dropout;
import dev.halve.engine.PackedBatch;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorMask;
import jdk.incubator.vector.VectorOperators;

/**
 * Attention of one head over one row of {@code n} tokens, forward and backward. The scores {@code
 * [n, n]} live in scratch memory that fits the second-level cache for common lengths; the backward
 * pass computes them again from {@code logSumExp}.
 */
final class CpuAttention {
  private static final ValueLayout.OfFloat FLOAT = ValueLayout.JAVA_FLOAT;

  private final Tensor qkv;
  private final PackedBatch batch;
  private final int heads;
  private final int hidden;
  private final int headSize;
  private final float scale;
  private final Dropout dropout;
  private final MemorySegment logSumExp;

  CpuAttention(Tensor qkv, PackedBatch batch, int heads, Dropout dropout, Tensor logSumExp) {
    this.qkv = qkv;
    this.batch = batch;
    this.heads = heads;
    this.hidden = (int) (qkv.extent(1) / 3);
    this.headSize = hidden / heads;
    this.scale = (float) (1 / Math.sqrt(headSize));
    this.dropout = dropout;
    this.logSumExp = logSumExp == null ? null : logSumExp.segment();
  }

  int parts() {
    return batch.rows() * heads;
  }

  /** Floats of scratch that a part needs, per score matrix. */
  long scoreFloats() {
    long longest = batch.longestRow();
    return longest * longest;
  }

  /** {@code out = dropout(softmax(scale * q · kᵀ)) · v} for one row and head. */
  void forward(int part, Blas blas, MemorySegment scores, Tensor out) {
    int row = part / heads;
    int head = part % heads;
    int first = batch.rowOffsets()[row];
    int n = batch.rowLength(row);
    long q = address(first, head);
    blas.timesTransposed(
        n, n, headSize, scale, q, 3 * hidden, q + 4L * hidden, 3 * hidden, 0, scores.address(), n);
    for (int i = 0; i < n; i++) {
      float normalizer = softmax(scores, (long) i * n, n);
      if (logSumExp != null) {
        logSumExp.setAtIndex(FLOAT, (long) (first + i) * heads + head, normalizer);
      }
      if (!dropout.isNone()) {
        drop(scores, (long) i * n, n, dropout.rowKey((first + i) * heads + head));
      }
    }
    blas.times(
        n,
        headSize,
        n,
        1,
        scores.address(),
        n,
        q + 8L * hidden,
        3 * hidden,
        0,
        out.segment().address() + 4 * ((long) first * hidden + (long) head * headSize),
        hidden);
  }

  /** The gradients of one row and head of {@link #forward}. */
  void backward(int part, Blas blas, MemorySegment p, MemorySegment ds, Tensor dOut, Tensor dQkv) {
    int row = part / heads;
    int head = part % heads;
    int first = batch.rowOffsets()[row];
    int n = batch.rowLength(row);
    long q = address(first, head);
    long k = q + 4L * hidden;
    long v = q + 8L * hidden;
    long o = 4 * ((long) first * hidden + (long) head * headSize);
    long dQ = dQkv.segment().address() + 4 * ((long) first * 3 * hidden + (long) head * headSize);
    long dK = dQ + 4L * hidden;
    long dV = dQ + 8L * hidden;
    int pitch = 3 * hidden;

    blas.timesTransposed(n, n, headSize, scale, q, pitch, k, pitch, 0, p.address(), n);
    blas.timesTransposed(
        n, n, headSize, 1, dOut.segment().address() + o, hidden, v, pitch, 0, ds.address(), n);
    for (int i = 0; i < n; i++) {
      float normalizer = logSumExp.getAtIndex(FLOAT, (long) (first + i) * heads + head);
      scoreGradient(p, ds, (long) i * n, n, normalizer, dropout.rowKey((first + i) * heads + head));
    }
    blas.transposedTimes(
        n, headSize, n, 1, p.address(), n, dOut.segment().address() + o, hidden, 0, dV, pitch);
    blas.times(n, headSize, n, scale, ds.address(), n, k, pitch, 0, dQ, pitch);
    blas.transposedTimes(n, headSize, n, scale, ds.address(), n, q, pitch, 0, dK, pitch);
  }

  private long address(int token, int head) {
    return qkv.segment().address() + 4 * ((long) token * 3 * hidden + (long) head * headSize);
  }

  /**
   * Softmax in place over {@code [at, at + n)}; returns the logarithm of the sum of exponentials.
   */
  static float softmax(MemorySegment x, long at, int n) {
    long end = at + n;
    FloatVector greatest = FloatVector.broadcast(FLOATS, Float.NEGATIVE_INFINITY);
    for (long i = at; i < end; i += LANES) {
      VectorMask<Float> inside = FLOATS.indexInRange(i, end);
      greatest =
          greatest.max(VectorMath.load(x, i, end).blend(Float.NEGATIVE_INFINITY, inside.not()));
    }
    float max = greatest.reduceLanes(VectorOperators.MAX);
    FloatVector sums = FloatVector.zero(FLOATS);
    for (long i = at; i < end; i += LANES) {
      FloatVector e = VectorMath.exp(VectorMath.load(x, i, end).sub(max));
      VectorMath.store(e, x, i, end);
      sums = sums.add(e.blend(0f, FLOATS.indexInRange(i, end).not()));
    }
    float sum = VectorMath.sum(sums);
    float inverse = 1 / sum;
    for (long i = at; i < end; i += LANES) {
      VectorMath.store(VectorMath.load(x, i, end).mul(inverse), x, i, end);
    }
    return max + (float) Math.log(sum);
  }

  /** Drops and scales {@code [at, at + n)} in place; the column counts from 0. */
  private void drop(MemorySegment x, long at, int n, int rowKey) {
    for (int j = 0; j < n; j += LANES) {
      FloatVector value = VectorMath.load(x, at + j, at + n);
      VectorMath.store(value.mul(kept(dropout, rowKey, j)), x, at + j, at + n);
    }
  }

  /**
   * From raw scores and dP: {@code p} becomes the dropped probabilities, {@code ds} the gradient of
   * the scores.
   */
  private void scoreGradient(
      MemorySegment p, MemorySegment ds, long at, int n, float normalizer, int rowKey) {
    long end = at + n;
    FloatVector sums = FloatVector.zero(FLOATS);
    for (int j = 0; j < n; j += LANES) {
      FloatVector probability =
          VectorMath.exp(VectorMath.load(p, at + j, end).sub(normalizer))
              .blend(0f, FLOATS.indexInRange(j, n).not());
      FloatVector dDropped = VectorMath.load(ds, at + j, end);
      FloatVector dProbability =
          dropout.isNone() ? dDropped : dDropped.mul(kept(dropout, rowKey, j));
      sums = probability.lanewise(VectorOperators.FMA, dProbability, sums);
      VectorMath.store(probability, p, at + j, end);
      VectorMath.store(dProbability, ds, at + j, end);
    }
    float mean = VectorMath.sum(sums);
    for (int j = 0; j < n; j += LANES) {
      FloatVector probability = VectorMath.load(p, at + j, end);
      VectorMath.store(
          VectorMath.load(ds, at + j, end).sub(mean).mul(probability), ds, at + j, end);
      if (!dropout.isNone()) {
        VectorMath.store(probability.mul(kept(dropout, rowKey, j)), p, at + j, end);
      }
    }
  }

  /** {@link Dropout#scale} where an element is kept and 0 where it is dropped, from a column on. */
  static FloatVector kept(Dropout dropout, int rowKey, int column) {
    IntVector columns = IntVector.broadcast(INTS, column).addIndex(1);
    IntVector x = columns.and(~8).mul(Dropout.COLUMN_STRIDE).add(rowKey);
    x = x.lanewise(VectorOperators.XOR, x.lanewise(VectorOperators.LSHR, 16)).mul(0x7feb352d);
    x = x.lanewise(VectorOperators.XOR, x.lanewise(VectorOperators.LSHR, 15)).mul(0x846ca68b);
    x = x.lanewise(VectorOperators.XOR, x.lanewise(VectorOperators.LSHR, 16));
    IntVector half = x.lanewise(VectorOperators.LSHR, columns.and(8).mul(2)).and(0xFFFF);
    VectorMask<Integer> dropped = half.compare(VectorOperators.LT, dropout.threshold());
    return FloatVector.broadcast(FLOATS, dropout.scale()).blend(0f, dropped.cast(FLOATS));
  }
}
