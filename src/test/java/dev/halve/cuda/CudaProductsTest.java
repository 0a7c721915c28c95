package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.cuda.Products.Activations;
import dev.halve.cuda.RandomTensors.Operand;
import java.lang.foreign.Arena;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;

/** Dense and 2:4 products of any extents, against double precision on the host. */
class CudaProductsTest {
  /** Tokens, out, in: tails in every direction, and extents that are no multiple of 8. */
  private static final int[][] EXTENTS = {
    {1, 8, 8}, {1, 768, 768}, {77, 100, 36}, {129, 17, 12}, {300, 264, 200}, {65, 384, 1536}
  };

  private CudaDevice device;
  private CudaPool pool;
  private RandomTensors tensors;
  private double tolerance;

  private void open(DType dtype, boolean useCublas) {
    device = Gpu.open(dtype, useCublas);
    pool = device.openPool();
    tensors = new RandomTensors(device, pool, 7);
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
  void denseProductsByCublasLt(DType dtype) {
    open(dtype, true);
    if (!device.products().usesCublas()) {
      System.out.println("cuBLASLt is not installed: its products are not tested");
    }
    dense();
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void denseProductsWithoutCublasLt(DType dtype) {
    open(dtype, false);
    assertThat(device.products().usesCublas()).isFalse();
    dense();
  }

  private enum Epilogue {
    BIAS,
    GELU,
    RESIDUAL
  }

  private void dense() {
    for (int[] extents : EXTENTS) {
      Operand weight = tensors.normal(0, 0.05, extents[1], extents[2]);
      Operand bias = tensors.normal(0, 1, extents[1]);
      for (Epilogue epilogue : Epilogue.values()) {
        check(
            extents,
            epilogue,
            weight,
            bias,
            a ->
                device
                    .products()
                    .dense(
                        a,
                        weight.address(),
                        bias.address(),
                        extents[1],
                        extents[2],
                        epilogue == Epilogue.GELU));
      }
    }
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void semiStructuredProducts(DType dtype) {
    open(dtype, false);
    for (int[] extents : EXTENTS) {
      Operand weight = tensors.semiStructured(0.05, extents[1], extents[2]);
      Operand bias = tensors.normal(DType.F32, 0, 1, extents[1]);
      try (Arena arena = Arena.ofConfined()) {
        CudaPackedWeight packed = pack(arena, weight);
        for (Epilogue epilogue : Epilogue.values()) {
          check(
              extents,
              epilogue,
              weight,
              bias,
              a -> device.products().sparse(a, packed, bias.address(), epilogue == Epilogue.GELU));
        }
      }
    }
  }

  private CudaPackedWeight pack(Arena arena, Operand weight) {
    Tensor host = Tensor.allocate(arena, device.computeType(), weight.tensor().shape().extents());
    device.download(weight.tensor(), host);
    return CudaPackedWeight.pack(
        device.context(),
        pool,
        device.computeType(),
        SparseSemiStructuredTensor.compress(arena, host));
  }

  private interface Product {
    void run(Activations activations);
  }

  private void check(
      int[] extents, Epilogue epilogue, Operand weight, Operand bias, Product product) {
    int tokens = extents[0];
    int out = extents[1];
    int in = extents[2];
    Operand x = tensors.normal(0, 1, tokens, in);
    Operand residual = tensors.normal(0, 1, tokens, out);
    Poisoned y = new Poisoned(device, pool, device.computeType(), tokens, out);
    product.run(
        new Activations(
            x.address(),
            tokens,
            epilogue == Epilogue.RESIDUAL ? residual.address() : 0,
            y.address(),
            out));
    double[] expected =
        Reference.linear(x.values(), weight.values(), bias.values(), tokens, out, in);
    for (int i = 0; i < expected.length; i++) {
      expected[i] =
          switch (epilogue) {
            case BIAS -> expected[i];
            case GELU -> Reference.gelu(expected[i]);
            case RESIDUAL -> expected[i] + residual.values()[i];
          };
    }
    assertThat(Reference.relativeError(y.read(), expected))
        .as("%s, tokens %d, out %d, in %d", epilogue, tokens, out, in)
        .isLessThan(tolerance);
  }

  @Test
  void aProductLeavesTheColumnsBesideItAlone() {
    open(DType.F16, true);
    int tokens = 45;
    int out = 64;
    int in = 128;
    Operand x = tensors.normal(0, 1, tokens, in);
    Operand weight = tensors.semiStructured(0.05, out, in);
    Operand bias = tensors.normal(DType.F32, 0, 1, out);
    Operand bias16 = tensors.normal(0, 1, out);
    double[] dense =
        Reference.linear(x.values(), weight.values(), bias16.values(), tokens, out, in);
    double[] sparse = Reference.linear(x.values(), weight.values(), bias.values(), tokens, out, in);
    Poisoned y = new Poisoned(device, pool, DType.F16, tokens, 192);
    try (Arena arena = Arena.ofConfined()) {
      device
          .products()
          .dense(
              new Activations(x.address(), tokens, 0, y.address(), 192),
              weight.address(),
              bias16.address(),
              out,
              in,
              false);
      device
          .products()
          .sparse(
              new Activations(x.address(), tokens, 0, y.address() + 2 * 128, 192),
              pack(arena, weight),
              bias.address(),
              false);
    }
    float[] found = y.read();
    float[] left = new float[tokens * out];
    float[] right = new float[tokens * out];
    for (int t = 0; t < tokens; t++) {
      for (int o = 0; o < out; o++) {
        left[t * out + o] = found[t * 192 + o];
        assertThat(found[t * 192 + 64 + o]).isNaN();
        right[t * out + o] = found[t * 192 + 128 + o];
      }
    }
    assertThat(Reference.relativeError(left, dense)).isLessThan(tolerance);
    assertThat(Reference.relativeError(right, sparse)).isLessThan(tolerance);
  }

  @Test
  void packedWeightsComeBackAsTheyWere() {
    open(DType.F16, true);
    try (Arena arena = Arena.ofConfined()) {
      for (int[] extents : EXTENTS) {
        Operand weight = tensors.semiStructured(1, extents[1], extents[2]);
        SparseSemiStructuredTensor back = pack(arena, weight).unpack(arena);
        back.validate();
        assertThat(back.decompress(arena).toFloatArray()).isEqualTo(weight.values());
      }
    }
  }
}
