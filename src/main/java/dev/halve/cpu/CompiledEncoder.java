package dev.halve.cpu;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.engine.BertConfig;
import dev.halve.engine.BertModel;
import dev.halve.engine.CompiledModel;
import dev.halve.engine.EncoderLayer;
import dev.halve.engine.Epilogue;
import dev.halve.engine.LayerNorm;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.Parameter;
import dev.halve.engine.Weight;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

/**
 * A model's forward pass on the CPU: weights packed once, all memory from one arena, nothing
 * allocated while it runs but the result's view.
 *
 * <p>Tokens are cut into blocks. Everything that concerns one token alone (a layer from the output
 * product of its attention to the queries, keys and values of the next) runs block by block on one
 * thread, so that a block's activations stay in its caches; the team meets twice a layer, before
 * attention and after it.
 */
final class CompiledEncoder implements CompiledModel {
  /** A block's widest activations should fit the second-level cache beside a group of weights. */
  private static final int BLOCK_BYTES = 512 << 10;

  private static final int MOST_BLOCK_TOKENS = 96;

  /** Blocks start at multiples of this, so that few tokens are left over for small tiles. */
  private static final int BLOCK_START = 4;

  private final ThreadTeam team;
  private final BertConfig config;
  private final int maxTokens;
  private final int maxRows;
  private final int blockTokens;
  private final ArenaPool pool = new ArenaPool();
  private final List<Layer> layers = new ArrayList<>();
  private final Norm embeddingsNorm;
  private final long word;
  private final long position;
  private final long type;
  private final Product projection;
  private final Product head;
  private long weightBytes;

  private final Tensor x;
  private final Tensor logits;
  private final long qkv;
  private final long context;
  private final long y;
  private final long[] inner;
  private final HeadAttention[] attention;

  // The batch in progress; the tasks are made once and read these.
  private PackedBatch batch;
  private int tokens;
  private int blocks;
  private Layer previous;
  private Layer next;
  private final ThreadTeam.Task blockTask = this::block;
  private final ThreadTeam.Task attentionTask = this::attend;

  private record Norm(long gamma, long beta, float epsilon) {}

  /** Weights whose outputs lie one after another: one but for a hybrid weight. */
  private record Product(List<PackedMatrix> weights, long bias) {}

  private record Layer(
      Product query,
      Product key,
      Product value,
      Product output,
      Norm attentionNorm,
      Product up,
      Product down,
      Norm feedForwardNorm) {}

  CompiledEncoder(
      ThreadTeam team,
      CpuKernels kernels,
      BertModel model,
      Linear head,
      int maxTokens,
      int maxRows) {
    this.team = team;
    this.config = model.config();
    this.maxTokens = maxTokens;
    this.maxRows = maxRows;
    int hidden = config.hiddenSize();
    int fitting = BLOCK_BYTES / (config.intermediateSize() * Float.BYTES);
    this.blockTokens = Math.clamp(fitting / 12 * 12, 24, MOST_BLOCK_TOKENS);
    this.word = copy(model.embeddings().word());
    this.position = copy(model.embeddings().position());
    this.type = copy(model.embeddings().type());
    this.embeddingsNorm = norm(model.embeddings().norm());
    Linear fromEmbeddings = model.embeddings().projection();
    this.projection =
        fromEmbeddings == null ? null : product(kernels.sparse(), kernels.dense(), fromEmbeddings);
    for (EncoderLayer layer : model.layers()) {
      layers.add(layer(kernels, layer));
    }
    // A head has a few labels: the narrower tile wastes less.
    this.head = head == null ? null : product(kernels.sparse(), kernels.attention(), head);
    this.x = pool.allocate(DType.F32, maxTokens, hidden);
    this.logits = head == null ? null : pool.allocate(DType.F32, maxTokens, head.out());
    this.qkv = floats(maxTokens, 3L * hidden);
    this.context = floats(maxTokens, hidden);
    this.y = floats(maxTokens, hidden);
    this.inner = new long[team.size()];
    this.attention = new HeadAttention[team.size()];
    int mostKeys = Math.min(maxTokens, config.maxPositionEmbeddings());
    for (int member = 0; member < team.size(); member++) {
      // A block's embeddings lie there too, where they are projected.
      int widest = Math.max(config.intermediateSize(), config.embeddingSize());
      inner[member] = floats(blockTokens + BLOCK_START, widest);
      long bytes = HeadAttention.bytes(kernels.attention(), config.headSize(), mostKeys);
      attention[member] =
          new HeadAttention(
              kernels.attention(),
              config.headSize(),
              mostKeys,
              pool.allocate(DType.U8, bytes).segment().address());
    }
  }

  private long floats(long rows, long columns) {
    return pool.allocate(DType.F32, rows, columns).segment().address();
  }

  private long copy(Parameter parameter) {
    Tensor copy = pool.allocate(DType.F32, parameter.value().shape().extents());
    copy.copyFrom(parameter.value());
    return copy.segment().address();
  }

  private Norm norm(LayerNorm norm) {
    return new Norm(copy(norm.weight()), copy(norm.bias()), norm.epsilon());
  }

  private Layer layer(CpuKernels kernels, EncoderLayer layer) {
    return new Layer(
        product(kernels.sparse(), kernels.dense(), layer.attention().query()),
        product(kernels.sparse(), kernels.dense(), layer.attention().key()),
        product(kernels.sparse(), kernels.dense(), layer.attention().value()),
        product(kernels.sparse(), kernels.dense(), layer.attention().output()),
        norm(layer.attention().norm()),
        product(kernels.sparse(), kernels.dense(), layer.feedForward().intermediate()),
        product(kernels.sparse(), kernels.dense(), layer.feedForward().output()),
        norm(layer.feedForward().norm()));
  }

  private Product product(TileKernels sparse, TileKernels dense, Linear linear) {
    List<PackedMatrix> weights =
        linear.weight() instanceof Weight.Hybrid hybrid
            ? hybrid.parts().stream().map(part -> pack(sparse, dense, part)).toList()
            : List.of(pack(sparse, dense, linear.weight()));
    weightBytes += weights.stream().mapToLong(PackedMatrix::bytes).sum();
    return new Product(weights, copy(linear.bias()));
  }

  private PackedMatrix pack(TileKernels sparse, TileKernels dense, Weight weight) {
    return switch (weight) {
      case Weight.Dense(Parameter parameter) ->
          PackedDenseWeight.pack(pool, parameter.value(), dense);
      case Weight.Masked(Parameter parameter) ->
          PackedDenseWeight.pack(pool, parameter.value(), dense);
      case Weight.Compressed compressed -> {
        try (Arena arena = Arena.ofConfined()) {
          SparseSemiStructuredTensor unpacked = compressed.packed().unpack(arena);
          yield PackedSparseWeight.pack(pool, unpacked, sparse);
        }
      }
      case Weight.Hybrid hybrid -> throw new IllegalArgumentException(hybrid.name());
    };
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

  @Override
  public Tensor run(PackedBatch batch) {
    batch.check(config);
    if (batch.tokens() > maxTokens || batch.rows() > maxRows) {
      throw new HalveException(
          "the batch has %d tokens in %d rows; the model is compiled for %d tokens in %d rows"
              .formatted(batch.tokens(), batch.rows(), maxTokens, maxRows));
    }
    this.batch = batch;
    tokens = batch.tokens();
    int members = team.size();
    int wanted = (tokens + blockTokens - 1) / blockTokens;
    blocks = Math.min((wanted + members - 1) / members * members, (tokens + 7) / 8);
    previous = null;
    for (Layer layer : layers) {
      next = layer;
      team.run(blocks, blockTask);
      team.run(batch.rows() * config.numAttentionHeads(), attentionTask);
      previous = layer;
    }
    next = null;
    team.run(blocks, blockTask);
    return (head == null ? x : logits).rows(0, tokens);
  }

  /** One block's tokens from one attention to the next. */
  private void block(int part, int member) {
    int first = start(part);
    int count = start(part + 1) - first;
    long scratch = team.scratch(member);
    long rowBytes = config.hiddenSize() * (long) Float.BYTES;
    long blockX = x.segment().address() + first * rowBytes;
    if (previous == null) {
      embed(first, count, projection == null ? blockX : inner[member]);
      if (projection != null) {
        run(projection, inner[member], count, blockX, rowBytes, Epilogue.NONE, scratch);
      }
    } else {
      finish(previous, first, count, blockX, inner[member], scratch);
    }
    if (next != null) {
      long blockQkv = qkv + first * 3 * rowBytes;
      run(next.query, blockX, count, blockQkv, 3 * rowBytes, Epilogue.NONE, scratch);
      run(next.key, blockX, count, blockQkv + rowBytes, 3 * rowBytes, Epilogue.NONE, scratch);
      run(next.value, blockX, count, blockQkv + 2 * rowBytes, 3 * rowBytes, Epilogue.NONE, scratch);
    } else if (head != null) {
      long pitch = logits.extent(1) * Float.BYTES;
      long to = logits.segment().address() + first * pitch;
      run(head, blockX, count, to, pitch, Epilogue.NONE, scratch);
    }
  }

  private int start(int block) {
    return block == blocks
        ? tokens
        : (int) ((long) tokens * block / blocks) / BLOCK_START * BLOCK_START;
  }

  private void embed(int first, int count, long to) {
    int width = config.embeddingSize();
    int row = rowOf(first);
    for (int token = first; token < first + count; token++) {
      if (token == batch.rowOffsets()[row + 1]) {
        row++;
      }
      RowNorm.sum(
          word + batch.tokenIds()[token] * (long) width * Float.BYTES,
          position + (token - batch.rowOffsets()[row]) * (long) width * Float.BYTES,
          type + batch.typeIds()[token] * (long) width * Float.BYTES,
          to + (token - first) * (long) width * Float.BYTES,
          width);
    }
    normalize(embeddingsNorm, to, 0, to, count, width);
  }

  private int rowOf(int token) {
    int row = 0;
    while (batch.rowOffsets()[row + 1] <= token) {
      row++;
    }
    return row;
  }

  /** A layer from its attention's result on. */
  private void finish(
      Layer layer, int first, int count, long blockX, long blockInner, long scratch) {
    long rowBytes = config.hiddenSize() * (long) Float.BYTES;
    long innerBytes = config.intermediateSize() * (long) Float.BYTES;
    long blockContext = context + first * rowBytes;
    long blockY = y + first * rowBytes;
    run(layer.output, blockContext, count, blockY, rowBytes, Epilogue.NONE, scratch);
    normalize(layer.attentionNorm, blockY, blockX, blockX, count, config.hiddenSize());
    run(layer.up, blockX, count, blockInner, innerBytes, Epilogue.GELU, scratch);
    run(layer.down, blockInner, count, blockY, rowBytes, Epilogue.NONE, scratch);
    normalize(layer.feedForwardNorm, blockY, blockX, blockX, count, config.hiddenSize());
  }

  private static void normalize(
      Norm norm, long from, long residual, long to, int count, int width) {
    RowNorm.run(from, residual, norm.gamma, norm.beta, norm.epsilon, to, count, width);
  }

  private static void run(
      Product product, long from, int count, long to, long pitch, Epilogue epilogue, long scratch) {
    long column = 0;
    for (int i = 0; i < product.weights.size(); i++) {
      PackedMatrix weight = product.weights.get(i);
      TiledProduct.run(
          weight,
          0,
          weight.stripes(),
          from,
          weight.columns() * (long) Float.BYTES,
          count,
          product.bias + column,
          epilogue,
          to + column,
          pitch,
          scratch);
      column += weight.rows() * (long) Float.BYTES;
    }
  }

  private void attend(int part, int member) {
    int heads = config.numAttentionHeads();
    int row = part / heads;
    long rowBytes = config.hiddenSize() * (long) Float.BYTES;
    long column = part % heads * (long) config.headSize() * Float.BYTES;
    int first = batch.rowOffsets()[row];
    long q = qkv + first * 3 * rowBytes + column;
    attention[member].run(
        q,
        q + rowBytes,
        q + 2 * rowBytes,
        3 * rowBytes,
        batch.rowLength(row),
        context + first * rowBytes + column,
        rowBytes);
  }

  @Override
  public void close() {
    pool.close();
  }
}
