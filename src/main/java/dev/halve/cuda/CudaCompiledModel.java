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
import java.util.LinkedHashMap;
import java.util.List;

/**
 * A forward pass as CUDA graphs: one for each bucket of batch sizes, recorded when the first batch
 * falls into it. Buffers lie in one arena at places that no bucket changes; ids go up and results
 * come down through pinned memory inside the graph; the host waits once, at the end.
 *
 * <p>Tokens past the batch's own, up to the bucket's size, are computed and thrown away: the token
 * id 0, in no row.
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
  private final long x;
  private final long y;
  private final long wide;
  private final long results;
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

  /** A product's weight and bias; one of the two weights is there. */
  private record Product(int out, int in, long dense, CudaPackedWeight sparse, long bias) {}

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
    this.pool = device.openPool();
    try {
      for (EncoderLayer layer : model.layers()) {
        layers.add(layer(layer));
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
      // The MLP's inner activations lie where the layer's queries, keys, values and context were,
      // and before them the embeddings that are projected.
      long widest = Math.max(4 * hidden, config.intermediateSize());
      wide = pool.allocate(2 * tokens * Math.max(widest, config.embeddingSize()));
      results = pool.allocate(4 * tokens * resultWidth());
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

  /** One product of layers side by side: their outputs one after another. */
  private Product product(Linear... linears) {
    int in = linears[0].in();
    int out = 0;
    boolean compressed = true;
    for (Linear linear : linears) {
      out += linear.out();
      compressed &= linear.weight() instanceof Weight.Compressed;
    }
    if (compressed) {
      CudaPackedWeight packed = packTogether(linears);
      weightBytes += packed.bytes();
      long bias = pool.allocate(4L * out);
      long at = bias;
      for (Linear linear : linears) {
        copy(linear.bias().value(), at);
        at += linear.bias().value().bytes();
      }
      return new Product(out, in, 0, packed, bias);
    }
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
    return new Product(out, in, weight, null, bias);
  }

  private CudaPackedWeight packTogether(Linear... linears) {
    try (Arena arena = Arena.ofConfined()) {
      List<SparseSemiStructuredTensor> parts = new ArrayList<>();
      for (Linear linear : linears) {
        parts.add(((Weight.Compressed) linear.weight()).packed().unpack(arena));
      }
      return CudaPackedWeight.pack(context, pool, device.computeType(), stack(arena, parts));
    }
  }

  /** The rows of weights with the same inputs, one weight after another. */
  private static SparseSemiStructuredTensor stack(
      Arena arena, List<SparseSemiStructuredTensor> parts) {
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
    if (batch.tokens() > maxTokens || batch.rows() > maxRows) {
      throw new HalveException(
          "a batch of %d tokens in %d rows; the model was compiled for %d in %d"
              .formatted(batch.tokens(), batch.rows(), maxTokens, maxRows));
    }
    batch.check(config);
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
    target.asSlice(0, 12L * bucket.tokens).fill((byte) 0);
    MemorySegment.copy(batch.tokenIds(), 0, target, ValueLayout.JAVA_INT, 0, batch.tokens());
    MemorySegment.copy(
        batch.typeIds(), 0, target, ValueLayout.JAVA_INT, 4L * bucket.tokens, batch.tokens());
    long positions = 2L * bucket.tokens;
    int[] offsets = batch.rowOffsets();
    for (int row = 0; row < batch.rows(); row++) {
      for (int token = offsets[row]; token < offsets[row + 1]; token++) {
        target.setAtIndex(ValueLayout.JAVA_INT, positions + token, token - offsets[row]);
      }
    }
    for (int row = 0; row <= bucket.rows; row++) {
      target.setAtIndex(
          ValueLayout.JAVA_INT, 3L * bucket.tokens + row, offsets[Math.min(row, batch.rows())]);
    }
  }

  /** Runs the pass once, which compiles and measures what it needs, then records it. */
  private CudaGraph record(Bucket bucket) {
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
    operations.embeddingsLayerNorm(
        projection == null ? x : wide,
        new Ids(ids, ids + 8L * tokens, ids + 4L * tokens),
        word,
        position,
        type,
        embeddingsNorm,
        tokens,
        config.embeddingSize());
    if (projection != null) {
      multiply(projection, wide, 0, x, tokens, false);
    }
    for (Layer layer : layers) {
      forward(layer, bucket);
    }
    if (labels > 0) {
      operations.head(results, false, labels, x, headWeight, headBias, tokens, hidden, labels);
    } else {
      operations.toFloat(results, x, (long) tokens * hidden);
    }
    CudaDriver.copyToHost(
        pinnedResults.segment().address(), results, 4L * tokens * resultWidth(), stream);
  }

  /** From x to x; the sums that the norms take lie where their results go. */
  private void forward(Layer layer, Bucket bucket) {
    int tokens = bucket.tokens;
    int hidden = config.hiddenSize();
    long context = wide + 2L * 3 * tokens * hidden;
    multiply(layer.qkv, x, 0, wide, tokens, false);
    operations.attention(
        context,
        wide,
        new Rows(ids + 12L * tokens, bucket.rows, bucket.longestRow, tokens),
        config.numAttentionHeads(),
        config.headSize());
    multiply(layer.output, context, x, y, tokens, false);
    operations.layerNorm(y, y, 0, layer.attentionNorm, tokens, hidden);
    multiply(layer.intermediate, y, 0, wide, tokens, true);
    multiply(layer.down, wide, y, x, tokens, false);
    operations.layerNorm(x, x, 0, layer.outputNorm, tokens, hidden);
  }

  private void multiply(
      Product product, long from, long residual, long to, int tokens, boolean gelu) {
    Activations activations = new Activations(from, tokens, residual, to, product.out);
    if (product.sparse != null) {
      products.sparse(activations, product.sparse, product.bias, gelu);
    } else {
      products.dense(activations, product.dense, product.bias, product.out, product.in, gelu);
    }
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
