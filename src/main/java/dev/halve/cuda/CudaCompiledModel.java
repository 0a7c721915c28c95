package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.cuda.CompiledWeights.Layer;
import dev.halve.cuda.CompiledWeights.Product;
import dev.halve.cuda.Operations.Ids;
import dev.halve.cuda.Operations.Norm;
import dev.halve.cuda.Operations.Rows;
import dev.halve.cuda.Products.Activations;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertModel;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.LinkedHashMap;
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
  private final CompiledWeights weights;
  private final long ids;
  private final long x;
  private final long y;
  private final long xNorms;
  private final long yNorms;
  private final long moments;
  private final long wide;
  private final long results;
  private final int[] firstPositions;
  private final PinnedBuffer pinned;
  private final MemorySegment hostResults;
  private final MemorySegment hostIds;
  private final LinkedHashMap<Bucket, CudaGraph> graphs = new LinkedHashMap<>(16, 0.75f, true);

  /**
   * What a graph is recorded for.
   *
   * @param tokens, rows at most
   * @param longestRow a multiple of the attention's blocks
   */
  record Bucket(int tokens, int rows, int longestRow) {}

  CudaCompiledModel(CudaDevice device, BertModel model, Linear head, int maxTokens, int maxRows) {
    this.device = device;
    this.context = device.context();
    this.operations = device.operations();
    this.products = device.products();
    this.config = model.config();
    this.maxTokens = maxTokens;
    this.maxRows = maxRows;
    CudaDevice.requireHeadSize(config.headSize());
    this.pool = device.openPool();
    try {
      weights = new CompiledWeights(device, pool, model, head);
      long tokens = TokenBuckets.roundUp(maxTokens);
      long hidden = config.hiddenSize();
      ids = pool.allocate(idBytes(tokens, rowBucket(maxRows)));
      x = pool.allocate(2 * tokens * hidden);
      y = pool.allocate(2 * tokens * hidden);
      xNorms = weights.foldsNorms ? pool.allocate(SparseGemm.normsBytes(tokens)) : 0;
      yNorms = weights.foldsNorms ? pool.allocate(SparseGemm.normsBytes(tokens)) : 0;
      moments =
          weights.foldsNorms
              ? pool.allocate(SparseGemm.momentsBytes(tokens, config.hiddenSize()))
              : 0;
      // The MLP's inner activations lie where the layer's queries, keys, values and context were,
      // and before them the embeddings that are projected.
      long widest = Math.max(4 * hidden, config.intermediateSize());
      wide = pool.allocate(2 * tokens * Math.max(widest, config.embeddingSize()));
      results = pool.allocate(4 * tokens * resultWidth());
      firstPositions = IntStream.range(0, config.maxPositionEmbeddings()).toArray();
      context.synchronize();
      long resultBytes = 4 * tokens * resultWidth();
      pinned = new PinnedBuffer(resultBytes + idBytes(tokens, rowBucket(maxRows)));
      hostResults = pinned.segment().asSlice(0, resultBytes);
      hostIds = pinned.segment().asSlice(resultBytes);
    } catch (Throwable failed) {
      pool.close();
      throw failed;
    }
  }

  /** Ids, types, positions and row offsets, one after another. */
  private static long idBytes(long tokens, long rows) {
    return 4 * (3 * tokens + rows + 1);
  }

  private long resultWidth() {
    return weights.labels > 0 ? weights.labels : config.hiddenSize();
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
    return weights.bytes();
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
        DType.F32, Shape.of(batch.tokens(), resultWidth()), hostResults.asSlice(0, bytes));
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
    long past = 4L * (bucket.tokens - batch.tokens());
    for (int end = 1; end <= 3; end++) {
      hostIds.asSlice(4L * end * bucket.tokens - past, past).fill((byte) 0);
    }
    MemorySegment.copy(batch.tokenIds(), 0, hostIds, ValueLayout.JAVA_INT, 0, batch.tokens());
    MemorySegment.copy(
        batch.typeIds(), 0, hostIds, ValueLayout.JAVA_INT, 4L * bucket.tokens, batch.tokens());
    int[] offsets = batch.rowOffsets();
    for (int row = 0; row < batch.rows(); row++) {
      MemorySegment.copy(
          firstPositions,
          0,
          hostIds,
          ValueLayout.JAVA_INT,
          4L * (2L * bucket.tokens + offsets[row]),
          batch.rowLength(row));
    }
    for (int row = 0; row <= bucket.rows; row++) {
      hostIds.setAtIndex(
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
    CudaDriver.copyToDevice(ids, hostIds.address(), idBytes(tokens, bucket.rows), stream);
    Ids batch = new Ids(ids, ids + 8L * tokens, ids + 4L * tokens);
    Norm norm = null; // of the sums in x
    if (weights.foldsNorms) {
      operations.embeddingsNorms(
          x,
          xNorms,
          batch,
          weights.word,
          weights.position,
          weights.type,
          weights.embeddingsNorm.epsilon(),
          tokens,
          hidden);
      for (Layer layer : weights.layers) {
        if (norm != null) {
          operations.tokenNorms(xNorms, moments, norm.epsilon(), tokens, hidden);
        }
        forwardFolded(layer, bucket);
        norm = layer.outputNorm();
      }
    } else {
      operations.embeddingsLayerNorm(
          weights.projection == null ? x : wide,
          batch,
          weights.word,
          weights.position,
          weights.type,
          weights.embeddingsNorm,
          tokens,
          config.embeddingSize());
      if (weights.projection != null) {
        multiply(weights.projection, wide, 0, x, bucket, false);
      }
      for (Layer layer : weights.layers) {
        if (norm != null) {
          operations.layerNorm(x, x, 0, norm, tokens, hidden);
        }
        forward(layer, bucket);
        norm = layer.outputNorm();
      }
    }
    finish(norm, tokens);
    CudaDriver.copyToHost(hostResults.address(), results, 4L * tokens * resultWidth(), stream);
  }

  /** From x to the sums in x, whose norm is the layer's output. */
  private void forward(Layer layer, Bucket bucket) {
    int tokens = bucket.tokens;
    int hidden = config.hiddenSize();
    long context = wide + 2L * 3 * tokens * hidden;
    multiply(layer.qkv(), x, 0, wide, bucket, false);
    attention(context, bucket);
    multiply(layer.output(), context, x, y, bucket, false);
    operations.layerNorm(y, y, 0, layer.attentionNorm(), tokens, hidden);
    multiply(layer.intermediate(), y, 0, wide, bucket, true);
    multiply(layer.down(), wide, y, x, bucket, false);
  }

  /** From the sums in x and their norms to the sums in x and their moments, in y on the way. */
  private void forwardFolded(Layer layer, Bucket bucket) {
    int tokens = bucket.tokens;
    int hidden = config.hiddenSize();
    long context = wide + 2L * 3 * tokens * hidden;
    multiply(layer.qkv(), x, 0, wide, bucket, false, xNorms);
    attention(context, bucket);
    multiply(layer.output(), context, x, y, bucket, false, xNorms);
    operations.tokenNorms(yNorms, moments, layer.attentionNorm().epsilon(), tokens, hidden);
    multiply(layer.intermediate(), y, 0, wide, bucket, true, yNorms);
    multiply(layer.down(), wide, y, x, bucket, false, yNorms);
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
    if (weights.labels > 0) {
      operations.normHead(
          results, x, norm, weights.headWeight, weights.headBias, tokens, hidden, weights.labels);
    } else {
      operations.layerNorm(y, x, 0, norm, tokens, hidden);
      operations.toFloat(results, y, (long) tokens * hidden);
    }
  }

  private void multiply(
      Product product, long from, long residual, long to, Bucket bucket, boolean gelu, long norms) {
    products.sparse(
        activations(product, from, residual, to, bucket),
        product.sparse(),
        product.bias(),
        gelu,
        new SparseGemm.FoldedNorm(product.slope(), norms, moments));
  }

  private void multiply(
      Product product, long from, long residual, long to, Bucket bucket, boolean gelu) {
    Activations activations = activations(product, from, residual, to, bucket);
    if (product.sparse() != null) {
      products.sparse(activations, product.sparse(), product.bias(), gelu);
    } else {
      products.dense(
          activations, product.dense(), product.bias(), product.out(), product.in(), gelu);
    }
  }

  /** The last row's end says how many tokens there are. */
  private Activations activations(
      Product product, long from, long residual, long to, Bucket bucket) {
    long count = ids + 4 * (3L * bucket.tokens + bucket.rows);
    return new Activations(from, bucket.tokens, count, residual, to, product.out());
  }

  @Override
  public void close() {
    context.makeCurrent();
    context.synchronize();
    graphs.values().forEach(CudaGraph::close);
    graphs.clear();
    pinned.close();
    pool.close();
  }
}
