package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;
import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.cuda.Operations.Ids;
import dev.halve.cuda.Operations.Norm;
import dev.halve.cuda.Operations.Rows;
import dev.halve.cuda.RandomTensors.Operand;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Every kernel but the products, against double precision on the host. */
class CudaKernelsTest {
  private static final int[] HIDDEN = {8, 36, 384, 520, 768, 1024};
  private static final int[] TOKENS = {1, 3, 131};

  private CudaDevice device;
  private CudaPool pool;
  private RandomTensors tensors;
  private double tolerance;

  private void open(DType dtype) {
    device = Gpu.open(dtype);
    pool = device.openPool();
    tensors = new RandomTensors(device, pool, 42);
    // One rounding of the output is 2^-12 relative in fp16, 2^-9 in bf16, and P is rounded before.
    tolerance = dtype == DType.F16 ? 6e-4 : 5e-3;
  }

  @AfterEach
  void close() {
    if (device != null) {
      pool.close();
      device.close();
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void layerNormsAreTheirFormula(DType dtype) {
    open(dtype);
    for (int hidden : HIDDEN) {
      for (int tokens : TOKENS) {
        Operand x = tensors.normal(3, 2, tokens, hidden);
        Operand residual = tensors.normal(-1, 1, tokens, hidden);
        Operand weight = tensors.normal(1, 0.2, hidden);
        Operand bias = tensors.normal(0, 0.5, hidden);
        for (boolean withResidual : new boolean[] {false, true}) {
          Poisoned out = new Poisoned(device, pool, dtype, tokens, hidden);
          device
              .operations()
              .layerNorm(
                  out.address(),
                  x.address(),
                  withResidual ? residual.address() : 0,
                  new Norm(weight.address(), bias.address(), 1e-5f),
                  tokens,
                  hidden);
          double[] sum = new double[tokens * hidden];
          for (int i = 0; i < sum.length; i++) {
            sum[i] = x.values()[i] + (withResidual ? (double) residual.values()[i] : 0);
          }
          double[] expected =
              Reference.layerNorm(sum, weight.values(), bias.values(), 1e-5, tokens, hidden);
          assertThat(Reference.relativeError(out.read(), expected))
              .as("tokens %d, hidden %d, residual %s", tokens, hidden, withResidual)
              .isLessThan(tolerance);
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void embeddingsAreSummedAndNormalised(DType dtype) {
    open(dtype);
    for (int hidden : HIDDEN) {
      for (int tokens : TOKENS) {
        Operand word = tensors.normal(0, 1, 100, hidden);
        Operand position = tensors.normal(0, 1, 60, hidden);
        Operand type = tensors.normal(0, 1, 2, hidden);
        Operand weight = tensors.normal(1, 0.2, hidden);
        Operand bias = tensors.normal(0, 0.5, hidden);
        Random random = tensors.random();
        int[] ids = random.ints(tokens, 0, 100).toArray();
        int[] positions = random.ints(tokens, 0, 60).toArray();
        int[] types = random.ints(tokens, 0, 2).toArray();
        Ids up =
            new Ids(
                address(tensors.integers(ids)),
                address(tensors.integers(positions)),
                address(tensors.integers(types)));
        double[] sum = new double[tokens * hidden];
        for (int t = 0; t < tokens; t++) {
          for (int h = 0; h < hidden; h++) {
            sum[t * hidden + h] =
                (double) word.values()[ids[t] * hidden + h]
                    + position.values()[positions[t] * hidden + h]
                    + type.values()[types[t] * hidden + h];
          }
        }
        Poisoned plain = new Poisoned(device, pool, dtype, tokens, hidden);
        device
            .operations()
            .embeddings(
                plain.address(),
                up,
                word.address(),
                position.address(),
                type.address(),
                tokens,
                hidden);
        assertThat(Reference.relativeError(plain.read(), sum)).isLessThan(tolerance);
        Poisoned normed = new Poisoned(device, pool, dtype, tokens, hidden);
        device
            .operations()
            .embeddingsLayerNorm(
                normed.address(),
                up,
                word.address(),
                position.address(),
                type.address(),
                new Norm(weight.address(), bias.address(), 1e-12f),
                tokens,
                hidden);
        double[] expected =
            Reference.layerNorm(sum, weight.values(), bias.values(), 1e-12, tokens, hidden);
        assertThat(Reference.relativeError(normed.read(), expected)).isLessThan(tolerance);
      }
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void embeddingsComeWithTheirNorms(DType dtype) {
    open(dtype);
    for (int hidden : HIDDEN) {
      int tokens = 131;
      Operand word = tensors.withOutliers(100, hidden);
      Operand position = tensors.normal(0, 1, 60, hidden);
      Operand type = tensors.normal(0, 1, 2, hidden);
      int[] ids = tensors.random().ints(tokens, 0, 100).toArray();
      int[] positions = tensors.random().ints(tokens, 0, 60).toArray();
      int[] types = tensors.random().ints(tokens, 0, 2).toArray();
      Poisoned sums = new Poisoned(device, pool, dtype, tokens, hidden);
      Poisoned norms = new Poisoned(device, pool, DType.F32, tokens, 2);
      device
          .operations()
          .embeddingsNorms(
              sums.address(),
              norms.address(),
              new Ids(
                  address(tensors.integers(ids)),
                  address(tensors.integers(positions)),
                  address(tensors.integers(types))),
              word.address(),
              position.address(),
              type.address(),
              1e-12f,
              tokens,
              hidden);
      float[] expected = new float[tokens * hidden];
      for (int i = 0; i < expected.length; i++) {
        int t = i / hidden;
        int h = i % hidden;
        expected[i] =
            word.values()[ids[t] * hidden + h]
                + position.values()[positions[t] * hidden + h]
                + type.values()[types[t] * hidden + h];
      }
      assertThat(Reference.relativeError(sums.read(), Reference.wide(expected)))
          .isLessThan(tolerance);
      double[] wide = Reference.wide(expected);
      assertThat(
              Reference.relativeError(norms.read(), Reference.norms(wide, 1e-12, tokens, hidden)))
          .as("hidden %d", hidden)
          .isLessThan(1e-5);
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void momentsMergeToNorms(DType dtype) {
    open(dtype);
    for (int hidden : HIDDEN) {
      for (int tokens : TOKENS) {
        Operand x = tensors.withOutliers(tokens, hidden);
        double[] moments = Reference.moments(x.values(), tokens, hidden);
        try (Arena arena = Arena.ofConfined()) {
          Tensor host = Tensor.of(arena, Reference.narrow(moments), moments.length);
          Tensor up = pool.allocate(DType.F32, moments.length);
          device.upload(host, up);
          Poisoned norms = new Poisoned(device, pool, DType.F32, tokens, 2);
          device.operations().tokenNorms(norms.address(), address(up), 1e-5f, tokens, hidden);
          assertThat(
                  Reference.relativeError(
                      norms.read(),
                      Reference.norms(Reference.wide(x.values()), 1e-5, tokens, hidden)))
              .isLessThan(1e-5);
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void theHeadAfterANorm(DType dtype) {
    open(dtype);
    for (int hidden : HIDDEN) {
      for (int outputs : new int[] {1, 2, 7}) {
        int tokens = 131;
        Operand x = tensors.withOutliers(tokens, hidden);
        Operand gamma = tensors.normal(1, 0.2, hidden);
        Operand beta = tensors.normal(0, 0.5, hidden);
        Operand weight = tensors.normal(0, 0.1, outputs, hidden);
        Operand bias = tensors.normal(0, 1, outputs);
        Poisoned logits = new Poisoned(device, pool, DType.F32, tokens, outputs);
        device
            .operations()
            .normHead(
                logits.address(),
                x.address(),
                new Norm(gamma.address(), beta.address(), 1e-12f),
                weight.address(),
                bias.address(),
                tokens,
                hidden,
                outputs);
        double[] normed =
            Reference.layerNorm(
                Reference.wide(x.values()), gamma.values(), beta.values(), 1e-12, tokens, hidden);
        double[] expected =
            Reference.linear(normed, weight.values(), bias.values(), tokens, outputs, hidden);
        assertThat(Reference.relativeError(logits.read(), expected)).isLessThan(1e-5);
      }
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void attentionIsSoftmaxWithinEachRow(DType dtype) {
    open(dtype);
    List<int[]> batches = new ArrayList<>();
    batches.add(new int[] {1});
    batches.add(new int[] {1, 1, 1, 1, 1});
    batches.add(new int[] {512});
    batches.add(new int[] {384, 384});
    batches.add(new int[] {17, 1, 130, 64, 65, 3, 128, 129, 200, 63});
    batches.add(new int[] {700, 40});
    batches.add(tensors.random().ints(9, 1, 300).toArray());
    batches.add(tensors.random().ints(150, 0, 40).toArray());
    for (int headSize : new int[] {32, 64}) {
      for (int[] lengths : batches) {
        // Deviation 3 makes sharp softmaxes, whose maximum moves from tile to tile.
        attention(lengths, 5, headSize, 1);
        attention(lengths, 2, headSize, 3);
      }
    }
  }

  @Test
  void attentionOfMoreRowsThanAGridIsHigh() {
    open(DType.F16);
    attention(tensors.random().ints(70_000, 0, 3).toArray(), 2, 32, 1);
  }

  private void attention(int[] lengths, int heads, int headSize, double deviation) {
    int[] offsets = new int[lengths.length + 1];
    int longest = 0;
    for (int row = 0; row < lengths.length; row++) {
      offsets[row + 1] = offsets[row] + lengths[row];
      longest = Math.max(longest, lengths[row]);
    }
    int tokens = offsets[lengths.length];
    int hidden = heads * headSize;
    Operand qkv = tensors.normal(0, deviation, tokens, 3L * hidden);
    Tensor rowOffsets = tensors.integers(offsets);
    double[] expected = Reference.attention(qkv.values(), offsets, heads, headSize);
    Operations operations = device.operations();
    Poisoned out = new Poisoned(device, pool, device.computeType(), tokens, hidden);
    operations.attentionSm80(
        out.address(),
        qkv.address(),
        new Rows(address(rowOffsets), lengths.length, longest, tokens),
        heads,
        headSize,
        null);
    String what = "%s, head size %d".formatted(java.util.Arrays.toString(lengths), headSize);
    assertThat(Reference.relativeError(out.read(), expected))
        .as("attention.cu, " + what)
        .isLessThan(2 * tolerance);
    if (device.context().properties().isHopper()) {
      // More rows than there are, and longer: the extra ones are empty.
      int[] padded = java.util.Arrays.copyOf(offsets, offsets.length + 3);
      java.util.Arrays.fill(padded, offsets.length, padded.length, tokens);
      Poisoned outSm90 = new Poisoned(device, pool, device.computeType(), tokens, hidden);
      operations.attentionSm90(
          outSm90.address(),
          qkv.address(),
          new Rows(
              address(tensors.integers(padded)),
              lengths.length + 3,
              Math.max(longest, 512),
              tokens),
          heads,
          headSize,
          null);
      float[] found = outSm90.read();
      assertThat(Reference.relativeError(found, expected))
          .as("attention_sm90.cu, " + what)
          .isLessThan(2 * tolerance);
      Poisoned again = new Poisoned(device, pool, device.computeType(), tokens, hidden);
      operations.attentionSm90(
          again.address(),
          qkv.address(),
          new Rows(address(rowOffsets), lengths.length, longest, tokens),
          heads,
          headSize,
          null);
      assertThat(again.read()).as("the same again, " + what).isEqualTo(found);
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void aRowNeverReadsItsNeighbours(DType dtype) {
    open(dtype);
    int heads = 3;
    int headSize = 64;
    int[] offsets = {0, 70, 200};
    Operand qkv = tensors.normal(0, 1, 300, 3L * heads * headSize);
    // All that lies outside the first row is NaN.
    long rowBytes = 2L * 3 * heads * headSize;
    CudaDriver.fill(
        qkv.address() + 70 * rowBytes, (byte) -1, 230 * rowBytes, device.context().stream());
    Poisoned out = new Poisoned(device, pool, dtype, 200, (long) heads * headSize);
    device
        .operations()
        .attention(
            out.address(),
            qkv.address(),
            new Rows(address(tensors.integers(offsets)), 1, 70, 300),
            heads,
            headSize);
    double[] expected = Reference.attention(qkv.values(), new int[] {0, 70}, heads, headSize);
    assertThat(Reference.relativeError(out.read(), expected)).isLessThan(2 * tolerance);
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void theHeadIsAProduct(DType dtype) {
    open(dtype);
    for (int hidden : HIDDEN) {
      for (int tokens : TOKENS) {
        for (int outputs : new int[] {1, 2, 7}) {
          Operand x = tensors.normal(0, 1, tokens, hidden);
          Operand weight = tensors.normal(0, 0.1, outputs, hidden);
          Operand bias = tensors.normal(0, 1, outputs);
          double[] expected =
              Reference.linear(x.values(), weight.values(), bias.values(), tokens, outputs, hidden);
          for (boolean elements : new boolean[] {false, true}) {
            Poisoned logits =
                new Poisoned(device, pool, elements ? dtype : DType.F32, tokens, outputs);
            device
                .operations()
                .head(
                    logits.address(),
                    elements,
                    outputs,
                    x.address(),
                    weight.address(),
                    bias.address(),
                    tokens,
                    hidden,
                    outputs);
            assertThat(Reference.relativeError(logits.read(), expected))
                .isLessThan(elements ? tolerance : 1e-5);
          }
        }
      }
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void elementwiseKernelsReachEveryElement(DType dtype) {
    open(dtype);
    for (int count : new int[] {1, 7, 8, 1000, 4099, 3_000_001}) {
      Operand x = tensors.normal(0, 3, count);
      Poisoned gelu = new Poisoned(device, pool, dtype, count);
      device.operations().gelu(gelu.address(), x.address(), count);
      double[] expected = new double[count];
      for (int i = 0; i < count; i++) {
        expected[i] = Reference.gelu(x.values()[i]);
      }
      assertThat(Reference.relativeError(gelu.read(), expected)).isLessThan(tolerance);

      Poisoned wide = new Poisoned(device, pool, DType.F32, count);
      device.operations().toFloat(wide.address(), x.address(), count);
      assertThat(wide.read()).isEqualTo(x.values());
      Poisoned narrow = new Poisoned(device, pool, dtype, count);
      device.operations().fromFloat(narrow.address(), wide.address(), count);
      assertThat(narrow.read()).isEqualTo(x.values());
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void rowsAreWidenedWithZerosAndNarrowed(DType dtype) {
    open(dtype);
    int rows = 77;
    Operand x = tensors.normal(0, 1, rows, 13);
    Poisoned wide = new Poisoned(device, pool, dtype, rows, 16);
    device.operations().copyRows(wide.address(), 16, 16, x.address(), 13, 13, rows);
    float[] found = wide.read();
    for (int row = 0; row < rows; row++) {
      for (int column = 0; column < 16; column++) {
        assertThat(found[row * 16 + column])
            .isEqualTo(column < 13 ? x.values()[row * 13 + column] : 0);
      }
    }
    Poisoned narrow = new Poisoned(device, pool, dtype, rows, 13);
    device.operations().copyRows(narrow.address(), 13, 13, wide.address(), 16, 13, rows);
    assertThat(narrow.read()).isEqualTo(x.values());
  }
}
