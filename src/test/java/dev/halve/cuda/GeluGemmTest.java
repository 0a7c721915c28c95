package dev.halve.cuda;

import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.cuda.RandomTensors.Operand;
import dev.halve.engine.HostCopy;
import dev.halve.engine.Parameter;
import dev.halve.engine.Weight;
import java.lang.foreign.Arena;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Assumptions;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

/** Products with a GELU in their epilogue, by every tile, against double precision on the host. */
class GeluGemmTest {
  /** What rounding to bf16 gives: half a unit in the last place is 2e-3 of a value at the most. */
  private static final double TOLERANCE = 4e-3;

  private CudaDevice device;
  private CudaPool pool;
  private RandomTensors tensors;

  @BeforeEach
  void open() {
    device = Gpu.open(DType.BF16);
    Assumptions.assumeTrue(device.context().properties().isHopper(), "the kernel is Hopper's");
    pool = device.openPool();
    tensors = new RandomTensors(device, pool, 11);
  }

  @AfterEach
  void close() {
    if (pool != null) {
      pool.close();
    }
    if (device != null) {
      device.close();
    }
  }

  private interface Tiles {
    void run(GeluGemm gemm, GeluGemm.Tile tile);
  }

  private interface Product {
    void run(long inner, Poisoned y);
  }

  private void eachTile(Tiles tiles) {
    try (Arena arena = Arena.ofConfined();
        Kernels kernels = new Kernels(device.context(), Gpu.CACHE, DType.BF16)) {
      KernelLaunch launch = new KernelLaunch(arena, device.context().stream());
      GeluGemm gemm =
          new GeluGemm(device.context(), kernels, launch, null, device.training(), true);
      for (int tokens : new int[] {1, 1 << 20}) {
        GeluGemm.tiles(tokens).forEach(tile -> tiles.run(gemm, tile));
      }
      device.context().synchronize();
    }
  }

  @ParameterizedTest
  @CsvSource({"1, 8, 8", "77, 40, 104", "200, 1096, 328", "500, 264, 1000", "193, 768, 64"})
  void forwards(int tokens, int in, int out) {
    Operand x = tensors.normal(0, 1, tokens, in);
    Operand weight = tensors.normal(0, 1 / Math.sqrt(in), out, in);
    Operand bias = tensors.normal(0, 1, out);
    double[] inner = Reference.linear(x.values(), weight.values(), bias.values(), tokens, out, in);
    double[] activated = Arrays.stream(inner).map(Reference::gelu).toArray();
    eachTile((gemm, tile) -> {
      Poisoned foundInner = new Poisoned(device, pool, DType.BF16, tokens, out);
      Poisoned found = new Poisoned(device, pool, DType.BF16, tokens, out);
      Poisoned alone = new Poisoned(device, pool, DType.BF16, tokens, out);
      Product product =
          (to, y) ->
              gemm.run(
                  new GeluGemm.Operands(
                      x.address(),
                      weight.address(),
                      to,
                      y.address(),
                      bias.address(),
                      0,
                      tokens,
                      in,
                      out,
                      false),
                  tile);
      product.run(foundInner.address(), found);
      product.run(0, alone);
      assertThat(Reference.relativeError(foundInner.read(), inner))
          .as("inner " + tile)
          .isLessThan(TOLERANCE);
      assertThat(Reference.relativeError(found.read(), activated))
          .as("gelu " + tile)
          .isLessThan(TOLERANCE);
      assertThat(Reference.relativeError(alone.read(), activated))
          .as("gelu without inner " + tile)
          .isLessThan(TOLERANCE);
    });
  }

  @ParameterizedTest
  @CsvSource({"1, 8, 8", "77, 40, 104", "200, 1096, 328", "500, 264, 1000", "193, 768, 64"})
  void backwards(int tokens, int in, int out) {
    Operand x = tensors.normal(0, 1, tokens, in);
    Operand weight = tensors.normal(0, 1 / Math.sqrt(in), in, out);
    Operand inner = tensors.normal(0, 1.5, tokens, out);
    float[] transposed = new float[out * in];
    for (int i = 0; i < in * out; i++) {
      transposed[i % out * in + i / out] = weight.values()[i];
    }
    double[] expected = Reference.linear(x.values(), transposed, new float[out], tokens, out, in);
    double[] sums = new double[out];
    for (int i = 0; i < expected.length; i++) {
      expected[i] *= derivative(inner.values()[i]);
      sums[i % out] += expected[i];
    }
    eachTile((gemm, tile) -> {
      // What is there already is added to.
      Operand bias = tensors.normal(DType.F32, 0, 1, out);
      Poisoned found = new Poisoned(device, pool, DType.BF16, tokens, out);
      gemm.run(
          new GeluGemm.Operands(
              x.address(),
              weight.address(),
              inner.address(),
              found.address(),
              0,
              bias.address(),
              tokens,
              in,
              out,
              true),
          tile);
      assertThat(Reference.relativeError(found.read(), expected))
          .as("gradient " + tile)
          .isLessThan(TOLERANCE);
      double[] biasExpected = new double[out];
      for (int o = 0; o < out; o++) {
        biasExpected[o] = bias.values()[o] + sums[o];
      }
      assertThat(Reference.relativeError(HostCopy.floats(device, bias.tensor()), biasExpected))
          .as("bias " + tile)
          .isLessThan(TOLERANCE);
    });
  }

  /** As where layers are trained one at a time: nothing was asked for before the candidates run. */
  @Test
  void candidatesAreTimedWithoutARehearsal(@TempDir Path cache) {
    try (CudaDevice fresh = new CudaDevice(0, DType.BF16, new KernelCache(cache), true);
        CudaPool own = fresh.openPool()) {
      Assumptions.assumeTrue(fresh.products().usesCublas(), "cuBLASLt is not installed");
      RandomTensors random = new RandomTensors(fresh, own, 12);
      int tokens = 3000;
      int in = 64;
      int out = 256;
      Operand weight = random.normal(0, 0.1, in, out);
      Parameter parameter =
          new Parameter("weight", own.allocate(DType.F32, in, out), weight.tensor());
      Operand dY = random.normal(0, 1, tokens, in);
      Operand inner = random.normal(0, 1, tokens, out);
      Poisoned dInner = new Poisoned(fresh, own, DType.BF16, tokens, out);
      fresh.linearGeluBackward(
          random.normal(0, 1, tokens, out).tensor(),
          new Weight.Dense(parameter),
          dY.tensor(),
          own.allocate(DType.F32, in, out),
          inner.tensor(),
          dInner.tensor(),
          own.allocate(DType.F32, out));
      float[] found = dInner.read();
      double[] expected = new double[tokens * out];
      for (int i = 0; i < expected.length; i++) {
        for (int k = 0; k < in; k++) {
          expected[i] +=
              (double) dY.values()[i / out * in + k] * weight.values()[k * out + i % out];
        }
        expected[i] *= derivative(inner.values()[i]);
      }
      assertThat(Reference.relativeError(found, expected)).isLessThan(TOLERANCE);
    }
  }

  private static double derivative(double v) {
    double density = Math.exp(-v * v / 2) / Math.sqrt(2 * Math.PI);
    return 0.5 * (1 + Reference.erf(v / Math.sqrt(2))) + v * density;
  }
}
