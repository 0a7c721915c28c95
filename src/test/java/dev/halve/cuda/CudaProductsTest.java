package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;
import static org.assertj.core.api.Assertions.assertThat;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.cuda.Products.Activations;
import dev.halve.cuda.RandomTensors.Operand;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.Assumptions;
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
    Assumptions.assumeTrue(device.products().usesCublas(), "cuBLASLt is not installed");
    dense();
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void denseProductsWithoutCublasLt(DType dtype) {
    open(dtype, false);
    assertThat(device.products().usesCublas()).isFalse();
    dense();
  }

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void gramsAreAddedTo(DType dtype) {
    open(dtype, true);
    Assumptions.assumeTrue(device.products().usesCublas(), "cuBLASLt is not installed");
    for (int[] extents : new int[][] {{1, 8}, {77, 40}, {1000, 264}, {65, 1536}}) {
      int tokens = extents[0];
      int in = extents[1];
      Operand x = tensors.normal(0.1, 1, tokens, in);
      Operand products = tensors.normal(DType.F32, 0, 1, in, in);
      double[] expected = Reference.wide(products.values());
      double[] size = new double[in * in];
      for (int t = 0; t < tokens; t++) {
        for (int i = 0; i < in; i++) {
          for (int j = i; j < in; j++) {
            double term = (double) x.values()[t * in + i] * x.values()[t * in + j];
            expected[i * in + j] += term;
            size[i * in + j] += Math.abs(term);
          }
        }
      }
      device.addGram(x.tensor(), products.tensor());
      try (Arena arena = Arena.ofConfined()) {
        Tensor found = Tensor.allocate(arena, DType.F32, in, in);
        device.download(products.tensor(), found);
        double worst = 0;
        for (int i = 0; i < in; i++) {
          for (int j = i; j < in; j++) {
            double difference = found.getFloat((long) i * in + j) - expected[i * in + j];
            worst = Math.max(worst, Math.abs(difference) / (1 + size[i * in + j]));
          }
        }
        // Operands are exact. Tensor cores add 16 terms at a time to a sum in fp32, which they cut
        // off rather than round: 63 times 2^-23 of the sum at the most, for 1,000 tokens.
        assertThat(worst).as("%d tokens of %d", tokens, in).isLessThan(1e-5);
      }
    }
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

  /**
   * By those for Ampere and Ada, which every later GPU runs too, and on Hopper by two of its own.
   */
  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void semiStructuredProductsByTile(DType dtype) {
    open(dtype, false);
    try (Arena arena = Arena.ofConfined();
        Kernels kernels = new Kernels(device.context(), Gpu.CACHE, dtype)) {
      KernelLaunch launch = new KernelLaunch(arena, device.context().stream());
      SparseGemm products =
          new SparseGemm(device.context(), kernels, launch, null, dtype == DType.BF16);
      for (int[] extents : EXTENTS) {
        if (extents[1] % 8 != 0 || extents[2] % 8 != 0) {
          continue; // wider rows are Products' part
        }
        Operand weight = tensors.semiStructured(0.05, extents[1], extents[2]);
        Operand bias = tensors.normal(DType.F32, 0, 1, extents[1]);
        CudaPackedWeight packed = pack(arena, weight);
        List<SparseGemmTile> tiles = new ArrayList<>(SparseGemmTile.ampereCandidates());
        if (device.context().properties().isHopper()) {
          tiles.add(new SparseGemmTile.Sm90(3, 1, 192, 4, 1, 1, 64, 3, 1, 0));
          tiles.addAll(held(packed.layout()));
        }
        for (SparseGemmTile tile : tiles) {
          for (Epilogue epilogue : Epilogue.values()) {
            check(
                extents,
                epilogue,
                weight,
                bias,
                a ->
                    products.multiply(
                        new SparseGemm.Operands(
                            a.x(),
                            extents[2],
                            packed,
                            bias.address(),
                            a.residual(),
                            a.y(),
                            a.yPitch(),
                            a.tokens(),
                            0,
                            SparseGemmTile.Epilogue.values()[epilogue.ordinal()],
                            null),
                        tile,
                        false));
          }
        }
      }
      device.context().synchronize();
    }
  }

  /** Tokens, out, in; whole blocks of 64 columns and parts of one. */
  private static final int[][] NORM_EXTENTS = {
    {1, 768, 768}, {300, 264, 200}, {65, 384, 1536}, {700, 96, 96}
  };

  /** One of each kind: two blocks a warpgroup, a cluster, three warpgroups, two blocks together. */
  private static final List<SparseGemmTile> NORM_TILES =
      List.of(
          new SparseGemmTile.Sm90(2, 2, 192, 4, 1, 1, 64, 3, 1, 0),
          new SparseGemmTile.Sm90(2, 2, 192, 4, 1, 2, 64, 3, 1, 0),
          new SparseGemmTile.Sm90(3, 1, 192, 4, 1, 1, 64, 3, 1, 0),
          new SparseGemmTile.Sm90(2, 1, 96, 4, 1, 1, 48, 2, 2, 0),
          new SparseGemmTile.Sm90(1, 1, 64, 6, 1, 1, 64, 1, 2, 0));

  @ParameterizedTest
  @EnumSource(names = {"F16", "BF16"})
  void normsInsideProducts(DType dtype) {
    open(dtype, false);
    Assumptions.assumeTrue(
        device.context().properties().isHopper(), "norms are folded on Hopper only");
    try (Arena arena = Arena.ofConfined();
        Kernels kernels = new Kernels(device.context(), Gpu.CACHE, dtype)) {
      KernelLaunch launch = new KernelLaunch(arena, device.context().stream());
      SparseGemm products =
          new SparseGemm(device.context(), kernels, launch, null, dtype == DType.BF16);
      for (int[] extents : NORM_EXTENTS) {
        for (SparseGemmTile tile : NORM_TILES) {
          normsInside(arena, products, tile, extents);
        }
        for (SparseGemmTile tile : held(new SparseGemmLayout(extents[1], extents[2]))) {
          normsInside(arena, products, tile, extents);
        }
      }
      device.context().synchronize();
    }
  }

  private void normsInside(Arena arena, SparseGemm products, SparseGemmTile tile, int[] extents) {
    afterNorm(arena, products, tile, extents, false);
    afterNorm(arena, products, tile, extents, true);
    addedToNorm(arena, products, tile, extents);
  }

  /** The tile that holds the weight in registers, where it fits there. */
  private static List<SparseGemmTile> held(SparseGemmLayout layout) {
    int kTiles = layout.kTiles();
    return kTiles <= SparseGemmTile.MOST_HELD
        ? List.of(new SparseGemmTile.Sm90(2, 1, 192, 7, 1, 1, 64, 3, 1, kTiles))
        : List.of();
  }

  private void afterNorm(
      Arena arena, SparseGemm products, SparseGemmTile tile, int[] extents, boolean gelu) {
    int tokens = extents[0];
    int out = extents[1];
    int in = extents[2];
    Operand x = tensors.withOutliers(tokens, in);
    Operand weight = tensors.semiStructured(0.05, out, in);
    float[] bias = random(0, out);
    float[] gamma = random(1, in);
    float[] beta = random(0, in);
    NormFolding folding =
        NormFolding.of(arena, compress(arena, weight), bias, gamma, beta, device.computeType());
    CudaPackedWeight packed =
        CudaPackedWeight.pack(device.context(), pool, device.computeType(), folding.weight());
    Poisoned y = new Poisoned(device, pool, device.computeType(), tokens, out);
    products.multiply(
        new SparseGemm.Operands(
            x.address(),
            in,
            packed,
            up(folding.bias()),
            0,
            y.address(),
            out,
            tokens,
            0,
            gelu ? SparseGemmTile.Epilogue.NORM_BIAS_GELU : SparseGemmTile.Epilogue.NORM_BIAS,
            new SparseGemm.FoldedNorm(up(folding.slope()), norms(x, tokens, in), 0)),
        tile,
        false);
    double[] normed =
        Reference.layerNorm(Reference.wide(x.values()), gamma, beta, 1e-5, tokens, in);
    double[] expected = Reference.linear(normed, weight.values(), bias, tokens, out, in);
    for (int i = 0; gelu && i < expected.length; i++) {
      expected[i] = Reference.gelu(expected[i]);
    }
    assertThat(Reference.relativeError(y.read(), expected))
        .as("gelu %s, tokens %d, out %d, in %d, %s", gelu, tokens, out, in, tile)
        .isLessThan(2 * tolerance);
  }

  private void addedToNorm(Arena arena, SparseGemm products, SparseGemmTile tile, int[] extents) {
    int tokens = extents[0];
    int out = extents[1];
    int in = extents[2];
    Operand x = tensors.normal(0, 1, tokens, in);
    Operand residual = tensors.withOutliers(tokens, out);
    Operand weight = tensors.semiStructured(0.05, out, in);
    float[] bias = random(0, out);
    float[] gamma = random(1, out);
    float[] beta = random(0, out);
    float[] together = new float[out];
    for (int o = 0; o < out; o++) {
      together[o] = bias[o] + beta[o];
    }
    Poisoned y = new Poisoned(device, pool, device.computeType(), tokens, out);
    Poisoned yMoments = new Poisoned(device, pool, DType.F32, Math.ceilDiv(out, 64), tokens, 2);
    products.multiply(
        new SparseGemm.Operands(
            x.address(),
            in,
            pack(arena, weight),
            up(together),
            residual.address(),
            y.address(),
            out,
            tokens,
            0,
            SparseGemmTile.Epilogue.BIAS_NORM_RESIDUAL,
            new SparseGemm.FoldedNorm(up(gamma), norms(residual, tokens, out), yMoments.address())),
        tile,
        false);
    double[] expected =
        Reference.linear(Reference.wide(x.values()), weight.values(), bias, tokens, out, in);
    double[] normed =
        Reference.layerNorm(Reference.wide(residual.values()), gamma, beta, 1e-5, tokens, out);
    for (int i = 0; i < expected.length; i++) {
      expected[i] += normed[i];
    }
    String what = "tokens %d, out %d, in %d, %s".formatted(tokens, out, in, tile);
    float[] found = y.read();
    assertThat(Reference.relativeError(found, expected)).as(what).isLessThan(tolerance);
    assertThat(Reference.relativeError(yMoments.read(), Reference.moments(found, tokens, out)))
        .as("moments, " + what)
        .isLessThan(1e-5);
  }

  private float[] random(double mean, int count) {
    float[] values = new float[count];
    for (int i = 0; i < count; i++) {
      values[i] = (float) (mean + 0.3 * tensors.random().nextGaussian());
    }
    return values;
  }

  private long up(float[] values) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.of(arena, values, values.length);
      Tensor up = pool.allocate(DType.F32, values.length);
      device.upload(host, up);
      return up.segment().address();
    }
  }

  /** What token_norms.cu makes of the moments. */
  private long norms(Operand matrix, int rows, int columns) {
    long norms = pool.allocate(SparseGemm.normsBytes(rows));
    float[] moments = Reference.narrow(Reference.moments(matrix.values(), rows, columns));
    device.operations().tokenNorms(norms, up(moments), 1e-5f, rows, columns);
    return norms;
  }

  private CudaPackedWeight pack(Arena arena, Operand weight) {
    return CudaPackedWeight.pack(
        device.context(), pool, device.computeType(), compress(arena, weight));
  }

  private SparseSemiStructuredTensor compress(Arena arena, Operand weight) {
    Tensor host = Tensor.allocate(arena, device.computeType(), weight.tensor().shape().extents());
    device.download(weight.tensor(), host);
    return SparseSemiStructuredTensor.compress(arena, host);
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
  void tilesPastTheTokenCountAreLeftOut() {
    open(DType.F16, false);
    Assumptions.assumeTrue(
        device.context().properties().isHopper(), "Hopper's kernel is told the count");
    int tokens = 1000;
    int wanted = 300;
    int out = 264;
    int in = 200;
    Operand x = tensors.normal(0, 1, tokens, in);
    Operand weight = tensors.semiStructured(0.05, out, in);
    Operand bias = tensors.normal(DType.F32, 0, 1, out);
    long count = address(tensors.integers(new int[] {wanted}));
    double[] expected =
        Reference.linear(
            Arrays.copyOf(x.values(), wanted * in),
            weight.values(),
            bias.values(),
            wanted,
            out,
            in);
    try (Arena arena = Arena.ofConfined();
        Kernels kernels = new Kernels(device.context(), Gpu.CACHE, DType.F16)) {
      KernelLaunch launch = new KernelLaunch(arena, device.context().stream());
      SparseGemm products = new SparseGemm(device.context(), kernels, launch, null, false);
      CudaPackedWeight packed = pack(arena, weight);
      List<SparseGemmTile> tiles = new ArrayList<>(held(packed.layout()));
      tiles.add(new SparseGemmTile.Sm90(3, 1, 192, 4, 1, 1, 64, 3, 1, 0));
      for (SparseGemmTile tile : tiles) {
        Poisoned y = new Poisoned(device, pool, DType.F16, tokens, out);
        products.multiply(
            new SparseGemm.Operands(
                x.address(),
                in,
                packed,
                bias.address(),
                0,
                y.address(),
                out,
                tokens,
                count,
                SparseGemmTile.Epilogue.BIAS,
                null),
            tile,
            false);
        float[] found = y.read();
        assertThat(Reference.relativeError(Arrays.copyOf(found, wanted * out), expected))
            .as(tile.toString())
            .isLessThan(tolerance);
        for (int i = 384 * out; i < tokens * out; i++) {
          assertThat(found[i]).isNaN();
        }
      }
    }
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
