package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.cuda.Operations.Ids;
import dev.halve.cuda.Operations.Norm;
import dev.halve.cuda.Operations.Rows;
import dev.halve.cuda.Products.Activations;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertModel;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.EncoderLayer;
import dev.halve.engine.LayerNorm;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.Parameter;
import dev.halve.engine.Weight;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.stream.IntStream;

/**
 * A forward pass as CUDA graphs: one for each bucket of batch sizes, recorded when the first batch
 * falls into it. Buffers lie in one arena at places that no bucket changes; ids go up and results
 * come down through pinned memory inside the graph; the host waits once, at the end.
 *
 * <p>Tokens past the batch's own, up to the bucket's size, are computed and thrown away: the token
 * id 0, in no row.
 *
 * <p>Where every linear layer is 2:4 and the GPU a Hopper, no LayerNorm is a pass over memory:
 * residual branches end in sums and their moments, and the products that read a sum normalise it
 * ({@link NormFolding}).
 */
final class CudaCompiledModel implements CompiledModel {
  /** Graphs hold device memory of their own; the one unused longest makes room. */
  private static final int KEPT_GRAPHS = 128;

  private static final int QUERY_BLOCK = 128;

  private final CudaDevice device;
  private final CudaContext context;
  private final Operations operations;
  private final Products products;
  private final BertConfig config;
  private final int maxTokens;
  private final int maxRows;
  private final CudaPool pool;
  private final List<Layer> layers = new ArrayList<>();
  private final long word;
  private final long position;
  private final long type;
  private final Norm embeddingsNorm;
  private final Product projection;
  private final int labels;
  private final long headWeight;
  private final long headBias;
  private long weightBytes;

  private final long ids;
  private final boolean foldsNorms;
  private final long x;
  private final long y;
  private final long xNorms;
  private final long yNorms;
  private final long moments;
  private final long wide;
  private final long results;
  private final int[] firstPositions;
  private final PinnedBuffer pinnedIds;
  private final PinnedBuffer pinnedResults;
  private final LinkedHashMap<Bucket, CudaGraph> graphs = new LinkedHashMap<>(16, 0.75f, true);

  /**
   * What a graph is recorded for.
   *
   * @param tokens, rows at most
   * @param longestRow a multiple of the attention's blocks
   */
  record Bucket(int tokens, int rows, int longestRow) {}

  /**
   * A product's weight and bias; one of the two weights is there.
   *
   * @param slope of the norm that is folded into it; 0 where none is
   */
  private record Product(
      int out, int in, long dense, CudaPackedWeight sparse, long bias, long slope) {}

  private record Layer(
      Product qkv,
      Product output,
      Norm attentionNorm,
      Product intermediate,
      Product down,
      Norm outputNorm) {}

  CudaCompiledModel(CudaDevice device, BertModel model, Linear head, int maxTokens, int maxRows) {
    this.device = device;
    this.context = device.context();
    this.operations = device.operations();
    this.products = device.products();
    this.config = model.config();
    this.maxTokens = maxTokens;
    this.maxRows = maxRows;
    CudaDevice.requireHeadSize(config.headSize());
    this.foldsNorms = context.properties().isHopper() && isFoldable(model);
    this.pool = device.openPool();
    try {
      LayerNorm before = model.embeddings().norm();
      for (EncoderLayer layer : model.layers()) {
        layers.add(foldsNorms ? foldedLayer(layer, before) : layer(layer));
        before = layer.feedForward().norm();
      }
      word = copy(model.embeddings().word());
      position = copy(model.embeddings().position());
      type = copy(model.embeddings().type());
      embeddingsNorm = norm(model.embeddings().norm());
      Linear fromEmbeddings = model.embeddings().projection();
      projection = fromEmbeddings == null ? null : product(fromEmbeddings);
      labels = head == null ? 0 : head.out();
      headWeight = head == null ? 0 : copy(headWeight(head));
      headBias = head == null ? 0 : copy(head.bias());

      long tokens = TokenBuckets.roundUp(maxTokens);
      long hidden = config.hiddenSize();
      ids = pool.allocate(idBytes(tokens, rowBucket(maxRows)));
      x = pool.allocate(2 * tokens * hidden);
      y = pool.allocate(2 * tokens * hidden);
      xNorms = foldsNorms ? pool.allocate(SparseGemm.normsBytes(tokens)) : 0;
      yNorms = foldsNorms ? pool.allocate(SparseGemm.normsBytes(tokens)) : 0;
      moments =
          foldsNorms ? pool.allocate(SparseGemm.momentsBytes(tokens, config.hiddenSize())) : 0;
      // The MLP's inner activations lie where the layer's queries, keys, values and context were,
      // and before them the embeddings that are projected.
      long widest = Math.max(4 * hidden, config.intermediateSize());
      wide = pool.allocate(2 * tokens * Math.max(widest, config.embeddingSize()));
      results = pool.allocate(4 * tokens * resultWidth());
      firstPositions = IntStream.range(0, config.maxPositionEmbeddings()).toArray();
      pinnedIds = new PinnedBuffer(idBytes(tokens, rowBucket(maxRows)));
      pinnedResults = new PinnedBuffer(4 * tokens * resultWidth());
      context.synchronize();
    } catch (Throwable failed) {
      pool.close();
      throw failed;
    }
  }

  private static Parameter headWeight(Linear head) {
    return switch (head.weight()) {
      case Weight.Dense(Parameter parameter) when head.out() <= Operations.HEAD_OUTPUTS ->
          parameter;
      default ->
          throw new HalveException(
              "%s: the GPU takes a dense head with at most %d outputs, found %s"
                  .formatted(head.name(), Operations.HEAD_OUTPUTS, head.weight().shape()));
    };
  }

  private Layer layer(EncoderLayer layer) {
    var attention = layer.attention();
    var feedForward = layer.feedForward();
    return new Layer(
        product(attention.query(), attention.key(), attention.value()),
        product(attention.output()),
        norm(attention.norm()),
        product(feedForward.intermediate()),
        product(feedForward.output()),
        norm(feedForward.norm()));
  }

  /** Whether all products are 2:4, of extents that they take without copies, each after a norm. */
  private static boolean isFoldable(BertModel model) {
    return model.embeddings().projection() == null
        && model.linears().stream()
            .allMatch(linear ->
                linear.weight() instanceof Weight.Compressed
                    && linear.in() % 8 == 0
                    && linear.out() % 8 == 0);
  }

  /**
   * @param before the norm of what the layer reads
   */
  private Layer foldedLayer(EncoderLayer layer, LayerNorm before) {
    var attention = layer.attention();
    var feedForward = layer.feedForward();
    return new Layer(
        afterNorm(before, attention.query(), attention.key(), attention.value()),
        addedToNorm(before, attention.output()),
        norm(attention.norm()),
        afterNorm(attention.norm(), feedForward.intermediate()),
        addedToNorm(attention.norm(), feedForward.output()),
        norm(feedForward.norm()));
  }

  /** A product that normalises what it reads. */
  private Product afterNorm(LayerNorm norm, Linear... linears) {
    try (Arena arena = Arena.ofConfined()) {
      NormFolding folding =
          NormFolding.of(
              arena,
              stack(arena, linears),
              biases(linears),
              host(norm.weight()),
              host(norm.bias()),
              device.computeType());
      return sparse(folding.weight(), folding.bias(), folding.slope());
    }
  }

  /** A product that is added to the norm of its residual. */
  private Product addedToNorm(LayerNorm norm, Linear linear) {
    try (Arena arena = Arena.ofConfined()) {
      float[] bias = biases(linear);
      float[] beta = host(norm.bias());
      for (int i = 0; i < bias.length; i++) {
        bias[i] += beta[i];
      }
      return sparse(stack(arena, linear), bias, host(norm.weight()));
    }
  }

  /**
   * @param slope null where no norm is folded in
   */
  private Product sparse(SparseSemiStructuredTensor weight, float[] bias, float[] slope) {
    CudaPackedWeight packed = CudaPackedWeight.pack(context, pool, device.computeType(), weight);
    weightBytes += packed.bytes();
    SparseGemmLayout layout = packed.layout();
    return new Product(
        layout.out(), layout.in(), 0, packed, copy(bias), slope == null ? 0 : copy(slope));
  }

  private float[] biases(Linear... linears) {
    int out = Arrays.stream(linears).mapToInt(Linear::out).sum();
    float[] biases = new float[out];
    int at = 0;
    for (Linear linear : linears) {
      System.arraycopy(host(linear.bias()), 0, biases, at, linear.out());
      at += linear.out();
    }
    return biases;
  }

  private float[] host(Parameter parameter) {
    try (Arena arena = Arena.ofConfined()) {
      Tensor host = Tensor.allocate(arena, DType.F32, parameter.value().shape().extents());
      device.download(parameter.value(), host);
      return host.toFloatArray();
    }
  }

  private long copy(float[] values) {
    long to = pool.allocate(4L * values.length);
    try (Arena arena = Arena.ofConfined()) {
      MemorySegment host = arena.allocateFrom(ValueLayout.JAVA_FLOAT, values);
      CudaDriver.copyToDevice(to, host.address(), host.byteSize(), context.stream());
      context.synchronize();
    }
    return to;
  }

  /** One product of layers side by side: their outputs one after another. */
  private Product product(Linear... linears) {
    if (Arrays.stream(linears).allMatch(each -> each.weight() instanceof Weight.Compressed)) {
      try (Arena arena = Arena.ofConfined()) {
        return sparse(stack(arena, linears), biases(linears), null);
      }
    }
    int in = linears[0].in();
    int out = Arrays.stream(linears).mapToInt(Linear::out).sum();
    long weight = pool.allocate(2L * out * in);
    long bias = pool.allocate(2L * out);
    weightBytes += 2L * out * in;
    long weightAt = weight;
    long biasAt = bias;
    for (Linear linear : linears) {
      copyDense(linear, weightAt);
      copy(linear.bias().compute(), biasAt);
      weightAt += 2L * linear.out() * in;
      biasAt += 2L * linear.out();
    }
    return new Product(out, in, weight, null, bias, 0);
  }

  /** The rows of weights with the same inputs, one weight after another. */
  private static SparseSemiStructuredTensor stack(Arena arena, Linear... linears) {
    List<SparseSemiStructuredTensor> parts = new ArrayList<>();
    for (Linear linear : linears) {
      parts.add(((Weight.Compressed) linear.weight()).packed().unpack(arena));
    }
    SparseSemiStructuredTensor first = parts.getFirst();
    long out = parts.stream().mapToLong(part -> part.shape().extent(0)).sum();
    Tensor values = Tensor.allocate(arena, first.values().dtype(), out, first.values().extent(1));
    Tensor metadata = Tensor.allocate(arena, DType.U8, out, first.metadata().extent(1));
    long row = 0;
    for (SparseSemiStructuredTensor part : parts) {
      long rows = part.shape().extent(0);
      values.rows(row, rows).copyFrom(part.values());
      metadata.rows(row, rows).copyFrom(part.metadata());
      row += rows;
    }
    return new SparseSemiStructuredTensor(Shape.of(out, first.shape().extent(1)), values, metadata);
  }

  private void copyDense(Linear linear, long to) {
    switch (linear.weight()) {
      case Weight.Dense(Parameter parameter) -> copy(parameter.compute(), to);
      case Weight.Masked(Parameter parameter) -> copy(parameter.compute(), to);
      case Weight.Compressed compressed -> {
        try (Arena arena = Arena.ofConfined()) {
          Tensor dense = compressed.packed().unpack(arena).decompress(arena);
          CudaDriver.copyToDevice(to, address(dense), dense.bytes(), context.stream());
          context.synchronize();
        }
      }
      case Weight.Hybrid hybrid -> {
        try (Arena arena = Arena.ofConfined()) {
          Tensor dense = Tensor.allocate(arena, device.computeType(), hybrid.shape().extents());
          dense.copyFrom(linear.weight(arena));
          CudaDriver.copyToDevice(to, address(dense), dense.bytes(), context.stream());
          context.synchronize();
        }
      }
    }
  }

  private Norm norm(LayerNorm norm) {
    return new Norm(copy(norm.weight()), copy(norm.bias()), norm.epsilon());
  }

  private long copy(Parameter parameter) {
    long to = pool.allocate(parameter.compute().bytes());
    copy(parameter.compute(), to);
    return to;
  }

  private void copy(Tensor from, long to) {
    CudaDriver.copyOnDevice(to, address(from), from.bytes(), context.stream());
  }

  /** Ids, types, positions and row offsets, one after another. */
  private static long idBytes(long tokens, long rows) {
    return 4 * (3 * tokens + rows + 1);
  }

  private long resultWidth() {
    return labels > 0 ? labels : config.hiddenSize();
  }

  @Override
  public int maxTokens() {
    return maxTokens;
  }

  @Override
  public int maxRows() {
    return maxRows;
  }

  @Override
  public long weightBytes() {
    return weightBytes;
  }

  /** How many graphs are recorded at the moment. */
  int graphs() {
    return graphs.size();
  }

  @Override
  public Tensor run(PackedBatch batch) {
    batch.check(config, maxTokens, maxRows);
    context.makeCurrent();
    Bucket bucket = bucket(batch);
    fill(batch, bucket);
    CudaGraph graph = graphs.get(bucket);
    if (graph == null) {
      graph = record(bucket);
      graphs.put(bucket, graph);
      if (graphs.size() > KEPT_GRAPHS) {
        graphs.pollFirstEntry().getValue().close();
      }
    }
    graph.launch(context);
    context.synchronize();
    long bytes = 4L * batch.tokens() * resultWidth();
    return new Tensor(
        DType.F32,
        Shape.of(batch.tokens(), resultWidth()),
        pinnedResults.segment().asSlice(0, bytes));
  }

  static Bucket bucket(PackedBatch batch) {
    return new Bucket(
        TokenBuckets.roundUp(batch.tokens()),
        rowBucket(batch.rows()),
        Math.ceilDiv(batch.longestRow(), QUERY_BLOCK) * QUERY_BLOCK);
  }

  /** The power of two from here up: rows that are not there cost next to nothing. */
  private static int rowBucket(int rows) {
    return rows == 1 ? 1 : 2 * Integer.highestOneBit(rows - 1);
  }

  private void fill(PackedBatch batch, Bucket bucket) {
    MemorySegment target = pinnedIds.segment();
    long past = 4L * (bucket.tokens - batch.tokens());
    for (int end = 1; end <= 3; end++) {
      target.asSlice(4L * end * bucket.tokens - past, past).fill((byte) 0);
    }
    MemorySegment.copy(batch.tokenIds(), 0, target, ValueLayout.JAVA_INT, 0, batch.tokens());
    MemorySegment.copy(
        batch.typeIds(), 0, target, ValueLayout.JAVA_INT, 4L * bucket.tokens, batch.tokens());
    int[] offsets = batch.rowOffsets();
    for (int row = 0; row < batch.rows(); row++) {
      MemorySegment.copy(
          firstPositions,
          0,
          target,
          ValueLayout.JAVA_INT,
          4L * (2L * bucket.tokens + offsets[row]),
          batch.rowLength(row));
    }
    for (int row = 0; row <= bucket.rows; row++) {
      target.setAtIndex(
          ValueLayout.JAVA_INT, 3L * bucket.tokens + row, offsets[Math.min(row, batch.rows())]);
    }
  }

  /** Compiles what the pass needs side by side, runs it once, which measures, then records it. */
  private CudaGraph record(Bucket bucket) {
    device.kernels().compileAhead(() -> forward(bucket));
    forward(bucket);
    context.synchronize();
    operations.overlap(true);
    try {
      return CudaGraph.record(context, () -> forward(bucket));
    } finally {
      operations.overlap(false);
    }
  }

  private void forward(Bucket bucket) {
    int tokens = bucket.tokens;
    int hidden = config.hiddenSize();
    long stream = context.stream();
    CudaDriver.copyToDevice(
        ids, pinnedIds.segment().address(), idBytes(tokens, bucket.rows), stream);
    Ids batch = new Ids(ids, ids + 8L * tokens, ids + 4L * tokens);
    Norm norm = null; // of the sums in x
    if (foldsNorms) {
      operations.embeddingsNorms(
          x, xNorms, batch, word, position, type, embeddingsNorm.epsilon(), tokens, hidden);
      for (Layer layer : layers) {
        if (norm != null) {
          operations.tokenNorms(xNorms, moments, norm.epsilon(), tokens, hidden);
        }
        forwardFolded(layer, bucket);
        norm = layer.outputNorm;
      }
    } else {
      operations.embeddingsLayerNorm(
          projection == null ? x : wide,
          batch,
          word,
          position,
          type,
          embeddingsNorm,
          tokens,
          config.embeddingSize());
      if (projection != null) {
        multiply(projection, wide, 0, x, bucket, false);
      }
      for (Layer layer : layers) {
        if (norm != null) {
          operations.layerNorm(x, x, 0, norm, tokens, hidden);
        }
        forward(layer, bucket);
        norm = layer.outputNorm;
      }
    }
    finish(norm, tokens);
    CudaDriver.copyToHost(
        pinnedResults.segment().address(), results, 4L * tokens * resultWidth(), stream);
  }

  /** From x to the sums in x, whose norm is the layer's output. */
  private void forward(Layer layer, Bucket bucket) {
    int tokens = bucket.tokens;
    int hidden = config.hiddenSize();
    long context = wide + 2L * 3 * tokens * hidden;
    multiply(layer.qkv, x, 0, wide, bucket, false);
    attention(context, bucket);
    multiply(layer.output, context, x, y, bucket, false);
    operations.layerNorm(y, y, 0, layer.attentionNorm, tokens, hidden);
    multiply(layer.intermediate, y, 0, wide, bucket, true);
    multiply(layer.down, wide, y, x, bucket, false);
  }

  /** From the sums in x and their norms to the sums in x and their moments, in y on the way. */
  private void forwardFolded(Layer layer, Bucket bucket) {
    int tokens = bucket.tokens;
    int hidden = config.hiddenSize();
    long context = wide + 2L * 3 * tokens * hidden;
    multiply(layer.qkv, x, 0, wide, bucket, false, xNorms);
    attention(context, bucket);
    multiply(layer.output, context, x, y, bucket, false, xNorms);
    operations.tokenNorms(yNorms, moments, layer.attentionNorm.epsilon(), tokens, hidden);
    multiply(layer.intermediate, y, 0, wide, bucket, true, yNorms);
    multiply(layer.down, wide, y, x, bucket, false, yNorms);
  }

  private void attention(long context, Bucket bucket) {
    operations.attention(
        context,
        wide,
        new Rows(ids + 12L * bucket.tokens, bucket.rows, bucket.longestRow, bucket.tokens),
        config.numAttentionHeads(),
        config.headSize());
  }

  /** From the sums in x, whose norm is the model's output, to the results. */
  private void finish(Norm norm, int tokens) {
    int hidden = config.hiddenSize();
    if (labels > 0) {
      operations.normHead(results, x, norm, headWeight, headBias, tokens, hidden, labels);
    } else {
      operations.layerNorm(y, x, 0, norm, tokens, hidden);
      operations.toFloat(results, y, (long) tokens * hidden);
    }
  }

  private void multiply(
      Product product, long from, long residual, long to, Bucket bucket, boolean gelu, long norms) {
    products.sparse(
        activations(product, from, residual, to, bucket),
        product.sparse,
        product.bias,
        gelu,
        new SparseGemm.FoldedNorm(product.slope, norms, moments));
  }

  private void multiply(
      Product product, long from, long residual, long to, Bucket bucket, boolean gelu) {
    Activations activations = activations(product, from, residual, to, bucket);
    if (product.sparse != null) {
      products.sparse(activations, product.sparse, product.bias, gelu);
    } else {
      products.dense(activations, product.dense, product.bias, product.out, product.in, gelu);
    }
  }

  /** The last row's end says how many tokens there are. */
  private Activations activations(
      Product product, long from, long residual, long to, Bucket bucket) {
    long count = ids + 4 * (3L * bucket.tokens + bucket.rows);
    return new Activations(from, bucket.tokens, count, residual, to, product.out);
  }

  @Override
  public void close() {
    context.makeCurrent();
    context.synchronize();
    graphs.values().forEach(CudaGraph::close);
    graphs.clear();
    pinnedIds.close();
    pinnedResults.close();
    pool.close();
  }
}
