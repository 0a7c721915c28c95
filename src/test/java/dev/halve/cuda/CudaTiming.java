package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.cuda.Operations.Norm;
import dev.halve.cuda.Operations.Rows;
import dev.halve.cuda.Products.Activations;
import dev.halve.cuda.RandomTensors.Operand;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.Pass;
import dev.halve.engine.PretrainedModel;
import dev.halve.engine.Workspace;
import java.io.IOException;
import java.lang.foreign.Arena;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Random;

/**
 * Times the kernels and whole models on the first GPU; one JSON object a line. Arguments: {@code
 * kernels}, {@code products}, {@code models}, {@code lengths=FILE}, {@code dtype=bf16}; none means
 * the first three.
 */
final class CudaTiming {
  private static final int[] BATCHES = {4, 16, 64, 256};
  private static final int SEQUENCE = 384;
  private static final int[][] SHAPES = {{2304, 768}, {768, 768}, {3072, 768}, {768, 3072}};

  private final CudaDevice device;
  private final CudaContext context;

  private CudaTiming(CudaDevice device) {
    this.device = device;
    this.context = device.context();
  }

  public static void main(String[] arguments) throws IOException {
    var chosen = Arrays.asList(arguments);
    boolean all = chosen.stream().allMatch(word -> word.contains("="));
    DType dtype = chosen.contains("dtype=bf16") ? DType.BF16 : DType.F16;
    int[] lengths = null;
    for (String word : chosen) {
      if (word.startsWith("lengths=")) {
        lengths =
            Files.readAllLines(Path.of(word.substring(8))).stream()
                .mapToInt(line -> Integer.parseInt(line.strip()))
                .toArray();
      }
    }
    try (CudaDevice device = new CudaDevice(0, dtype, KernelCache.ofUser())) {
      CudaTiming timing = new CudaTiming(device);
      GpuProperties gpu = device.context().properties();
      System.out.printf(
          "{\"gpu\": \"%s\", \"driver\": %d, \"dtype\": \"%s\", \"cublasLt\": \"%s\"}%n",
          gpu.name(), CudaDriver.version(), dtype, CublasLt.path());
      if (all || chosen.contains("kernels")) {
        timing.kernels();
        timing.attention(lengths);
      }
      if (all || chosen.contains("products")) {
        timing.products();
      }
      if (all || chosen.contains("models")) {
        timing.models(lengths);
      }
    }
  }

  /**
   * Milliseconds of one run among many in a graph, median of repeats, each after a pause: what the
   * GPU does before its power limit slows it.
   */
  private double burst(Runnable work, double expectedMillis) {
    work.run();
    context.synchronize();
    int runs = Math.clamp((long) (4 / expectedMillis), 5, 100);
    device.operations().overlap(true);
    CudaGraph graph;
    try {
      graph =
          CudaGraph.record(
              context,
              () -> {
                for (int i = 0; i < runs; i++) {
                  work.run();
                }
              });
    } finally {
      device.operations().overlap(false);
    }
    float[] millis = new float[5];
    try (graph;
        Stopwatch stopwatch = new Stopwatch(context)) {
      stopwatch.millis(() -> graph.launch(context));
      for (int i = 0; i < millis.length; i++) {
        pause(100);
        millis[i] = stopwatch.millis(() -> graph.launch(context)) / runs;
      }
    }
    Arrays.sort(millis);
    return millis[millis.length / 2];
  }

  private static void pause(long millis) {
    try {
      Thread.sleep(millis);
    } catch (InterruptedException stopped) {
      throw new IllegalStateException(stopped);
    }
  }

  private void kernels() {
    int hidden = 768;
    for (int rows : BATCHES) {
      int tokens = rows * SEQUENCE;
      try (CudaPool pool = device.openPool()) {
        RandomTensors tensors = new RandomTensors(device, pool, 1);
        // Random where values matter to speed or range; the same block again where memory is large.
        Operand block = tensors.normal(0, 1, 1536, 3L * hidden);
        long qkv = pool.allocate(2L * tokens * 3072);
        for (int at = 0; at < rows / 4; at++) {
          CudaDriver.copyOnDevice(
              qkv + at * block.tensor().bytes(),
              block.address(),
              block.tensor().bytes(),
              context.stream());
        }
        long out = pool.allocate(2L * tokens * 3072);
        Operand scale = tensors.normal(1, 0.1, hidden);
        Norm norm = new Norm(scale.address(), scale.address(), 1e-12f);
        Operations operations = device.operations();
        double mega = 1e-6 * tokens * hidden;
        memory(
            "layer_norm",
            tokens,
            4 * mega,
            () -> operations.layerNorm(out, qkv, 0, norm, tokens, hidden));
        memory("gelu", tokens, 16 * mega, () -> operations.gelu(out, qkv, 4L * tokens * hidden));
        memory(
            "head",
            tokens,
            2 * mega,
            () ->
                operations.head(
                    out, false, 2, qkv, scale.address(), scale.address(), tokens, hidden / 2, 2));
      }
    }
  }

  /** Of full rows, and of the first rows of a length file. */
  private void attention(int[] lengths) {
    for (int rows : BATCHES) {
      int[] full = new int[rows];
      Arrays.fill(full, SEQUENCE);
      attentionOf(full);
      if (lengths != null) {
        attentionOf(Arrays.copyOf(lengths, rows));
      }
    }
  }

  private void attentionOf(int[] lengths) {
    int hidden = 768;
    int rows = lengths.length;
    int[] offsets = new int[rows + 1];
    double pairs = 0;
    for (int row = 0; row < rows; row++) {
      offsets[row + 1] = offsets[row] + lengths[row];
      pairs += (double) lengths[row] * lengths[row];
    }
    int tokens = offsets[rows];
    double flops = 4 * pairs * hidden;
    try (CudaPool pool = device.openPool()) {
      RandomTensors tensors = new RandomTensors(device, pool, 1);
      Operand block = tensors.normal(0, 1, 128, 3L * hidden);
      long qkv = pool.allocate(Math.ceilDiv(tokens, 128) * block.tensor().bytes());
      for (int at = 0; at < Math.ceilDiv(tokens, 128); at++) {
        CudaDriver.copyOnDevice(
            qkv + at * block.tensor().bytes(),
            block.address(),
            block.tensor().bytes(),
            context.stream());
      }
      long out = pool.allocate(2L * tokens * hidden);
      int longest = Arrays.stream(lengths).max().orElseThrow();
      Rows batch = new Rows(address(tensors.integers(offsets)), rows, longest, tokens);
      Operations operations = device.operations();
      for (int heads : new int[] {12, 24}) {
        int headSize = hidden / heads;
        attention(
            "attention",
            tokens,
            headSize,
            flops,
            () -> operations.attentionSm80(out, qkv, batch, heads, headSize, null));
        if (context.properties().isHopper()) {
          attention(
              "attention_sm90",
              tokens,
              headSize,
              flops,
              () -> operations.attentionSm90(out, qkv, batch, heads, headSize, null));
        }
      }
    }
  }

  private void memory(String kernel, int tokens, double megabytes, Runnable work) {
    double millis = burst(work, megabytes / 2e3);
    System.out.printf(
        "{\"kernel\": \"%s\", \"tokens\": %d, \"us\": %.2f, \"gb_per_s\": %.0f}%n",
        kernel, tokens, millis * 1e3, megabytes / millis);
  }

  private void attention(String kernel, int tokens, int headSize, double flops, Runnable work) {
    double millis = burst(work, flops / 3e11);
    System.out.printf(
        "{\"kernel\": \"%s\", \"head\": %d, \"tokens\": %d, \"us\": %.2f, \"tflops\": %.0f}%n",
        kernel, headSize, tokens, millis * 1e3, flops / millis * 1e-9);
  }

  private void products() {
    for (int rows : BATCHES) {
      int tokens = rows * SEQUENCE;
      for (int[] shape : SHAPES) {
        product(tokens, shape[0], shape[1]);
      }
    }
  }

  private void product(int tokens, int out, int in) {
    try (CudaPool pool = device.openPool();
        Arena arena = Arena.ofConfined()) {
      RandomTensors tensors = new RandomTensors(device, pool, 1);
      Operand weight = tensors.semiStructured(0.03, out, in);
      Operand bias = tensors.normal(DType.F32, 0, 1, out);
      Operand bias16 = tensors.normal(0, 1, out);
      Tensor host = Tensor.allocate(arena, device.computeType(), out, in);
      device.download(weight.tensor(), host);
      CudaPackedWeight packed =
          CudaPackedWeight.pack(
              context,
              pool,
              device.computeType(),
              SparseSemiStructuredTensor.compress(arena, host));
      Operand block = tensors.normal(0, 1, 1536, in);
      long x = pool.allocate(2L * tokens * in);
      for (int at = 0; at < tokens / 1536; at++) {
        CudaDriver.copyOnDevice(
            x + at * block.tensor().bytes(),
            block.address(),
            block.tensor().bytes(),
            context.stream());
      }
      long y = pool.allocate(2L * tokens * out);
      long residual = pool.allocate(2L * tokens * out);
      CudaDriver.fill(residual, (byte) 0, 2L * tokens * out, context.stream());
      boolean gelu = out == 3072;
      boolean withResidual = out == 768;
      Activations activations = new Activations(x, tokens, withResidual ? residual : 0, y, out);
      double flops = 2.0 * tokens * out * in;
      double sparse =
          burst(
              () -> device.products().sparse(activations, packed, bias.address(), gelu),
              flops / 7e11);
      double dense =
          burst(
              () ->
                  device
                      .products()
                      .dense(activations, weight.address(), bias16.address(), out, in, false),
              flops / 5e11);
      System.out.printf(
          "{\"product\": \"%dx%d\", \"epilogue\": \"%s\", \"tokens\": %d, \"sparse_us\": %.2f,"
              + " \"sparse_tflops\": %.0f, \"dense_us\": %.2f, \"dense_tflops\": %.0f,"
              + " \"ratio\": %.2f, \"tile\": \"%s\"}%n",
          out,
          in,
          gelu ? "gelu" : withResidual ? "residual" : "bias",
          tokens,
          sparse * 1e3,
          flops / sparse * 1e-9,
          dense * 1e3,
          flops / dense * 1e-9,
          dense / sparse,
          device.products().tile(out, in, tokens));
    }
  }

  private void models(int[] lengths) {
    for (boolean compressed : new boolean[] {false, true}) {
      try (BertForQuestionAnswering model = PretrainedModel.random(device, BertConfig.base(), 1)) {
        if (compressed) {
          WeightNormSparsifier sparsifier =
              new WeightNormSparsifier(WeightNormSparsifier.Config.SEMI_STRUCTURED);
          sparsifier.prepare(model.bert().linears());
          sparsifier.step();
          sparsifier.squashMask();
          model.toSparseSemiStructured();
        }
        String weights = compressed ? "2:4" : "dense";
        try (CompiledModel compiled = model.compile(256 * SEQUENCE, 256)) {
          System.out.printf(
              "{\"weights\": \"%s\", \"weight_bytes\": %d}%n", weights, compiled.weightBytes());
          for (int rows : BATCHES) {
            model("compiled", weights, rows, false, batch(rows, null), compiled::run);
            if (lengths != null) {
              model("compiled", weights, rows, true, batch(rows, lengths), compiled::run);
            }
          }
        }
        try (Workspace workspace = new Workspace(device);
            Arena arena = Arena.ofConfined()) {
          Tensor logits = Tensor.allocate(arena, device.computeType(), 256L * SEQUENCE, 2);
          for (int rows : BATCHES) {
            model(
                "eager",
                weights,
                rows,
                false,
                batch(rows, null),
                batch -> {
                  workspace.reset();
                  device.download(
                      model.forward(Pass.inference(workspace, batch)),
                      logits.rows(0, batch.tokens()));
                });
          }
        }
      }
    }
  }

  private interface Forward {
    void run(PackedBatch batch);
  }

  private static void model(
      String mode, String weights, int rows, boolean real, PackedBatch batch, Forward forward) {
    for (int i = 0; i < 5; i++) {
      forward.run(batch);
    }
    long start = System.nanoTime();
    double[] millis = new double[1000];
    int count = 0;
    while (count < 10 || count < millis.length && System.nanoTime() - start < 700_000_000L) {
      long before = System.nanoTime();
      forward.run(batch);
      millis[count++] = (System.nanoTime() - before) * 1e-6;
    }
    double[] sorted = Arrays.copyOf(millis, count);
    Arrays.sort(sorted);
    System.out.printf(
        "{\"mode\": \"%s\", \"weights\": \"%s\", \"batch\": %d, \"tokens\": %d, \"lengths\":"
            + " \"%s\", \"ms_p50\": %.3f, \"ms_p10\": %.3f, \"ms_p90\": %.3f, \"runs\": %d}%n",
        mode,
        weights,
        rows,
        batch.tokens(),
        real ? "real" : "full",
        sorted[count / 2],
        sorted[count / 10],
        sorted[count * 9 / 10],
        count);
  }

  private static PackedBatch batch(int rows, int[] lengths) {
    Random random = new Random(1);
    int[][] ids = new int[rows][];
    int[][] types = new int[rows][];
    for (int row = 0; row < rows; row++) {
      int length = lengths == null ? SEQUENCE : Math.min(SEQUENCE, lengths[row % lengths.length]);
      ids[row] = random.ints(length, 1000, 28000).toArray();
      types[row] = new int[length];
      Arrays.fill(types[row], Math.min(20, length), length, 1);
    }
    return PackedBatch.of(ids, types);
  }
}
