package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;

/**
 * A LayerNorm taken into the product that reads it: with {@code n = (x - mean) * scale}, {@code W ·
 * (gamma * n + beta) + bias} is {@code scale * (W' x - mean * slope) + bias'}, where {@code W'} is
 * W with its columns multiplied by gamma, {@code slope} its row sums and {@code bias'} is {@code
 * bias + W beta}. The 2:4 pattern stays. The row sums are those of {@code W'} as it was rounded, so
 * that what a row's mean adds to the product goes away exactly.
 *
 * @param weight {@code W'}
 * @param slope, bias {@code [out]}
 */
record NormFolding(SparseSemiStructuredTensor weight, float[] slope, float[] bias) {
  /**
   * @param arena of the result
   * @param dtype that the weight is rounded to
   */
  static NormFolding of(
      Arena arena,
      SparseSemiStructuredTensor weight,
      float[] bias,
      float[] gamma,
      float[] beta,
      DType dtype) {
    int out = Math.toIntExact(weight.shape().extent(0));
    int kept = Math.toIntExact(weight.shape().extent(1) / 2);
    Tensor values = Tensor.allocate(arena, dtype, out, kept);
    float[] slope = new float[out];
    float[] folded = new float[out];
    for (int row = 0; row < out; row++) {
      double rowSum = 0;
      double shift = bias[row];
      for (int at = 0; at < kept; at++) {
        int column = column(weight.metadata(), row, at);
        long index = (long) row * kept + at;
        float value = weight.values().getFloat(index);
        values.setFloat(index, value * gamma[column]);
        rowSum += values.getFloat(index);
        shift += (double) value * beta[column];
      }
      slope[row] = (float) rowSum;
      folded[row] = (float) shift;
    }
    return new NormFolding(
        new SparseSemiStructuredTensor(weight.shape(), values, weight.metadata()), slope, folded);
  }

  /** The column of a row's kept value. */
  private static int column(Tensor metadata, int row, int at) {
    int group = at / 2;
    int pair = metadata.segment().get(ValueLayout.JAVA_BYTE, row * metadata.extent(1) + group / 2);
    int nibble = pair >> group % 2 * 4;
    return group * 4 + (nibble >> at % 2 * 2 & 3);
  }
}
