package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.cuda.RandomTensors.Operand;
import dev.halve.engine.BatchShape;
import dev.halve.engine.DeviceBatch;
import dev.halve.engine.Dropout;
import dev.halve.engine.HostCopy;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;

/** Attention as training runs it, and its gradients, against the formulas in double precision. */
class TrainingAttentionTest {
  private static final int HEADS = 2;

  private CudaDevice device;
  private CudaPool pool;
  private RandomTensors tensors;

  @BeforeEach
  void open() {
    device = Gpu.open(DType.BF16);
    pool = device.openPool();
    tensors = new RandomTensors(device, pool, 17);
  }

  @AfterEach
  void close() {
    if (device != null) {
      pool.close();
      device.close();
    }
  }

  @Test
  void attentionAndItsGradientsAreTheirFormulas() {
    List<int[]> batches = new ArrayList<>();
    batches.add(new int[] {1});
    batches.add(new int[] {64});
    batches.add(new int[] {512, 1, 0, 320});
    batches.add(new int[] {63, 64, 65, 127, 128, 129, 191, 192, 193});
    batches.add(new int[] {700});
    for (int i = 0; i < 4; i++) {
      batches.add(tensors.random().ints(12, 0, 260).toArray());
    }
    batches.add(tensors.random().ints(150, 0, 20).toArray());
    try (Arena arena = Arena.ofConfined()) {
      for (TrainingAttention attention : kinds(arena)) {
        for (int headSize : new int[] {32, 64}) {
          for (int[] lengths : batches) {
            check(attention, lengths, headSize, Dropout.NONE);
            check(attention, lengths, headSize, new Dropout(0.1f, 1234, 3));
          }
        }
      }
    }
  }

  @Test
  void soAreThoseOfMoreRowsThanAGridIsHigh() {
    int[] lengths = tensors.random().ints(70_000, 0, 3).toArray();
    try (Arena arena = Arena.ofConfined()) {
      for (TrainingAttention attention : kinds(arena)) {
        check(attention, lengths, 32, Dropout.NONE);
      }
    }
  }

  /** By the kernels for every GPU, and on Hopper by its own. */
  private List<TrainingAttention> kinds(Arena arena) {
    KernelLaunch launch = new KernelLaunch(arena, device.context().stream());
    return Stream.of(false, device.context().properties().isHopper())
        .distinct()
        .map(hopper ->
            new TrainingAttention(
                device.kernels(), launch, device.operations(), device.training(), hopper))
        .toList();
  }

  private void check(TrainingAttention attention, int[] lengths, int headSize, Dropout dropout) {
    int[] offsets = new int[lengths.length + 1];
    for (int row = 0; row < lengths.length; row++) {
      offsets[row + 1] = offsets[row] + lengths[row];
    }
    int tokens = offsets[lengths.length];
    int hidden = HEADS * headSize;
    Operand qkv = tensors.normal(0, 1, tokens, 3L * hidden);
    Operand dOut = tensors.normal(0, 1, tokens, hidden);
    int longest = Arrays.stream(lengths).max().orElseThrow();
    DeviceBatch batch =
        new DeviceBatch(
            null,
            null,
            null,
            tensors.integers(offsets),
            null,
            null,
            null,
            null,
            new BatchShape(tokens, lengths.length, longest));
    Poisoned out = new Poisoned(device, pool, DType.BF16, tokens, hidden);
    Poisoned logSumExp = new Poisoned(device, pool, DType.F32, tokens, HEADS);
    Poisoned dQkv = new Poisoned(device, pool, DType.BF16, tokens, 3L * hidden);
    List<Tensor> dBiases = biases(pool, hidden);
    attention.forward(qkv.tensor(), batch, HEADS, dropout, logSumExp.tensor(), out.tensor());
    attention.backward(
        qkv.tensor(),
        batch,
        HEADS,
        dropout,
        logSumExp.tensor(),
        out.tensor(),
        dOut.tensor(),
        dQkv.tensor(),
        dBiases);
    float[] gradients = dQkv.read();
    Formulas expected = new Formulas(qkv.values(), dOut.values(), offsets, headSize, dropout);
    String what = "%s, head size %d, %s".formatted(Arrays.toString(lengths), headSize, dropout);
    // One rounding to bf16 is 2^-9; P and dS are rounded before their products.
    assertThat(Reference.relativeError(out.read(), expected.out)).as(what).isLessThan(5e-3);
    assertThat(Reference.relativeError(logSumExp.read(), expected.logSumExp))
        .as(what)
        .isLessThan(1e-5);
    assertThat(Reference.relativeError(gradients, expected.dQkv)).as(what).isLessThan(1e-2);

    float[] sums = read(device, dBiases);
    assertThat(sumError(sums, expected.dQkv)).as("sums over tokens: " + what).isLessThan(1e-2);

    List<Tensor> biasesAgain = biases(pool, hidden);
    Poisoned again = new Poisoned(device, pool, DType.BF16, tokens, 3L * hidden);
    attention.backward(
        qkv.tensor(),
        batch,
        HEADS,
        dropout,
        logSumExp.tensor(),
        out.tensor(),
        dOut.tensor(),
        again.tensor(),
        biasesAgain);
    assertThat(again.read()).as("the same again: " + what).isEqualTo(gradients);
    assertThat(read(device, biasesAgain)).as("the same again: " + what).isEqualTo(sums);
  }

  private static List<Tensor> biases(CudaPool pool, long hidden) {
    return Stream.generate(() -> pool.allocate(DType.F32, hidden)).limit(3).toList();
  }

  /** Queries', keys' and values', one after another. */
  private static float[] read(CudaDevice device, List<Tensor> biases) {
    int hidden = (int) biases.getFirst().elements();
    float[] all = new float[3 * hidden];
    for (int i = 0; i < 3; i++) {
      System.arraycopy(HostCopy.floats(device, biases.get(i)), 0, all, i * hidden, hidden);
    }
    return all;
  }

  /**
   * How far sums over tokens are off, as a part of what they add up were all of one column at right
   * angles: rounding has no sign, and the keys' sums are zero but for it.
   */
  private static double sumError(float[] sums, double[] terms) {
    double[] expected = new double[sums.length];
    double squares = 0;
    for (int i = 0; i < terms.length; i++) {
      expected[i % sums.length] += terms[i];
      squares += terms[i] * terms[i];
    }
    double difference = 0;
    for (int i = 0; i < sums.length; i++) {
      difference += Math.pow(sums[i] - expected[i], 2);
    }
    return Math.sqrt(difference / squares);
  }

  /** What attention.cu and attention_backward.cu say, element by element. */
  private static final class Formulas {
    final double[] out;
    final double[] logSumExp;
    final double[] dQkv;
    private final float[] qkv;
    private final int headSize;
    private final int hidden;

    Formulas(float[] qkv, float[] dOut, int[] offsets, int headSize, Dropout dropout) {
      this.qkv = qkv;
      this.headSize = headSize;
      hidden = HEADS * headSize;
      int tokens = offsets[offsets.length - 1];
      out = new double[tokens * hidden];
      logSumExp = new double[tokens * HEADS];
      dQkv = new double[tokens * 3 * hidden];
      double scale = 1 / Math.sqrt(headSize);
      for (int row = 0; row + 1 < offsets.length; row++) {
        int from = offsets[row];
        int length = offsets[row + 1] - from;
        for (int head = 0; head < HEADS; head++) {
          for (int query = from; query < from + length; query++) {
            double[] p = new double[length];
            double sum = 0;
            for (int key = 0; key < length; key++) {
              p[key] = Math.exp(dot(place(query, 0, head), place(from + key, 1, head)) * scale);
              sum += p[key];
            }
            logSumExp[query * HEADS + head] = Math.log(sum);
            int outAt = query * hidden + head * headSize;
            double[] kept = new double[length];
            for (int key = 0; key < length; key++) {
              p[key] /= sum;
              boolean keeps = dropout.isNone() || dropout.keeps(query * HEADS + head, key);
              kept[key] = keeps ? dropout.scale() : 0;
              int value = place(from + key, 2, head);
              for (int d = 0; d < headSize; d++) {
                out[outAt + d] += p[key] * kept[key] * qkv[value + d];
              }
            }
            double delta = 0;
            for (int d = 0; d < headSize; d++) {
              delta += out[outAt + d] * dOut[outAt + d];
            }
            for (int key = 0; key < length; key++) {
              int value = place(from + key, 2, head);
              double dP = 0;
              for (int d = 0; d < headSize; d++) {
                dP += (double) dOut[outAt + d] * qkv[value + d];
                dQkv[value + d] += p[key] * kept[key] * dOut[outAt + d];
              }
              double dS = p[key] * (dP * kept[key] - delta) * scale;
              int queryAt = place(query, 0, head);
              int keyAt = place(from + key, 1, head);
              for (int d = 0; d < headSize; d++) {
                dQkv[queryAt + d] += dS * qkv[keyAt + d];
                dQkv[keyAt + d] += dS * qkv[queryAt + d];
              }
            }
          }
        }
      }
    }

    /** Of a head's queries (0), keys (1) or values (2) of a token. */
    private int place(int token, int which, int head) {
      return (token * 3 + which) * hidden + head * headSize;
    }

    private double dot(int a, int b) {
      double sum = 0;
      for (int d = 0; d < headSize; d++) {
        sum += (double) qkv[a + d] * qkv[b + d];
      }
      return sum;
    }
  }
}
