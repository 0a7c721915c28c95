package dev.halve.cpu;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
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
import java.util.ArrayList;
import java.util.List;

/**
 * A model's forward pass on the CPU: weights packed once, all memory from one arena, nothing
 * allocated while it runs but the result's view.
 *
 * <p>Activations are {@link Panels}, tokens in lanes, from the embeddings to the result. Everything
 * that concerns one token alone (a layer from the output product of its attention to the queries,
 * keys and values of the next) runs on one thread, group by group of panels: of one panel where its
 * activations stay in the second-level cache, see {@link PanelProduct#together}; the team meets
 * twice a layer, before attention and after it.
 */
final class CompiledEncoder implements CompiledModel {
  private final ThreadTeam team;
  private final PanelKernels kernels;
  private final BertConfig config;
  private final int maxTokens;
  private final int maxRows;
  private final int hidden;
  private final int intermediate;
  private final int embedding;
  private final int outputs;
  private final ArenaPool pool = new ArenaPool();
  private final List<Layer> layers = new ArrayList<>();
  private final Norm embeddingsNorm;
  private final long word;
  private final long position;
  private final long type;
  private final Product projection;
  private final Product head;
  private long weightBytes;
  private boolean sparse;

  private final Panels panels;
  private final Tensor result;
  private final long x;
  private final long qkv;
  private final long context;
  private final long y;
  private final long[] inner;
  private final long[] rows;
  private final PanelAttention[] attention;

  // The batch in progress; the tasks are made once and read these.
  private PackedBatch batch;
  private Layer previous;
  private Layer next;
  private final ThreadTeam.Task groupTask = this::group;
  private final ThreadTeam.Task attentionTask = this::attend;

  private record Norm(long gamma, long beta, float epsilon) {}

  /** Weights whose outputs lie one after another: one but for a hybrid weight. */
  private record Product(List<Part> parts, int rows, long bias) {}

  /** Either a 2:4 weight or a dense one. */
  private record Part(PairedSparseWeight sparse, PackedDenseWeight dense) {
    int rows() {
      return sparse == null ? dense.rows() : sparse.rows();
    }
  }

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
    this.kernels = kernels.panels();
    this.config = model.config();
    this.maxTokens = maxTokens;
    this.maxRows = maxRows;
    this.hidden = features(config.hiddenSize());
    this.intermediate = features(config.intermediateSize());
    this.embedding = features(config.embeddingSize());
    this.word = copy(model.embeddings().word());
    this.position = copy(model.embeddings().position());
    this.type = copy(model.embeddings().type());
    this.embeddingsNorm = norm(model.embeddings().norm());
    Linear fromEmbeddings = model.embeddings().projection();
    this.projection = fromEmbeddings == null ? null : product(fromEmbeddings);
    for (EncoderLayer layer : model.layers()) {
      layers.add(layer(layer));
    }
    this.head = head == null ? null : product(head);
    int lanes = this.kernels.lanes();
    int mostVectors = sparse ? this.kernels.mostVectors() : this.kernels.denseVectors();
    int together =
        PanelProduct.together(this.kernels, config.hiddenSize() + config.intermediateSize());
    this.panels = new Panels(lanes, maxTokens, team.size(), mostVectors, together);
    this.result =
        pool.allocate(DType.F32, maxTokens, head == null ? config.hiddenSize() : head.out());
    this.x = panels(hidden);
    this.qkv = panels(3 * hidden);
    this.context = panels(hidden);
    this.outputs = Math.max(hidden, head == null ? 0 : features(head.out()));
    this.y = panels(outputs);
    this.inner = new long[team.size()];
    this.rows = new long[team.size()];
    this.attention = new PanelAttention[team.size()];
    int mostKeys = Math.min(maxTokens, config.maxPositionEmbeddings());
    for (int member = 0; member < team.size(); member++) {
      // A group's embeddings lie there too, where they are projected.
      int widest = Math.max(intermediate, embedding);
      inner[member] = floats((long) together * mostVectors * lanes, widest);
      rows[member] = floats(lanes, Math.max(hidden, embedding));
      long bytes = PanelAttention.bytes(this.kernels, config.headSize(), mostKeys);
      attention[member] =
          new PanelAttention(
              this.kernels,
              config.headSize(),
              mostKeys,
              pool.allocate(DType.U8, bytes).segment().address());
    }
  }

  /** Rows that a panel has for so many: a hybrid weight's parts may each end in a started block. */
  private static int features(int count) {
    return PanelProduct.padded(count) + TiledSparseWeight.BLOCK;
  }

  private long floats(long rows, long columns) {
    return pool.allocate(DType.F32, rows, columns).segment().address();
  }

  /** Panels of all tokens, and the vector beyond them that attention may read. */
  private long panels(int features) {
    int lanes = kernels.lanes();
    return floats((maxTokens + lanes - 1L) / lanes * lanes + 1, features + (long) lanes);
  }

  private long copy(Parameter parameter) {
    Tensor value = parameter.compute();
    // Kernels read a bias of whole row blocks.
    long elements = value.elements() + TiledSparseWeight.BLOCK;
    Tensor copy = pool.allocate(DType.F32, elements);
    copy.segment().asSlice(0, value.segment().byteSize()).copyFrom(value.segment());
    return copy.segment().address();
  }

  private Norm norm(LayerNorm norm) {
    return new Norm(copy(norm.weight()), copy(norm.bias()), norm.epsilon());
  }

  private Layer layer(EncoderLayer layer) {
    return new Layer(
        product(layer.attention().query()),
        product(layer.attention().key()),
        product(layer.attention().value()),
        product(layer.attention().output()),
        norm(layer.attention().norm()),
        product(layer.feedForward().intermediate()),
        product(layer.feedForward().output()),
        norm(layer.feedForward().norm()));
  }

  private Product product(Linear linear) {
    List<Part> parts =
        linear.weight() instanceof Weight.Hybrid hybrid
            ? hybrid.parts().stream().map(this::pack).toList()
            : List.of(pack(linear.weight()));
    return new Product(parts, linear.out(), copy(linear.bias()));
  }

  private Part pack(Weight weight) {
    return switch (weight) {
      case Weight.Trainable trainable -> dense(trainable.parameter());
      case Weight.Compressed compressed -> {
        PairedSparseWeight packed = ((CpuSparseWeight) compressed.packed()).paired().copy(pool);
        weightBytes += packed.bytes();
        sparse = true;
        yield new Part(packed, null);
      }
      case Weight.Hybrid hybrid -> throw new IllegalArgumentException(hybrid.name());
    };
  }

  private Part dense(Parameter parameter) {
    Tensor value = parameter.compute();
    weightBytes += value.segment().byteSize();
    return new Part(null, PackedDenseWeight.pack(pool, value, kernels.rowsTogether()));
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
    batch.check(config, maxTokens, maxRows);
    this.batch = batch;
    panels.cut(batch.tokens());
    previous = null;
    for (Layer layer : layers) {
      next = layer;
      team.run(panels.groups(), groupTask);
      team.run(batch.rows() * config.numAttentionHeads(), attentionTask);
      previous = layer;
    }
    next = null;
    team.run(panels.groups(), groupTask);
    return result.rows(0, batch.tokens());
  }

  /** A group's tokens from one attention to the next. */
  private void group(int group, int member) {
    int first = panels.firstPanel(group);
    int end = first + panels.panels(group);
    long groupX = x + panels.offset(first, hidden);
    if (previous == null) {
      embed(group, groupX, member);
    } else {
      finish(previous, group, groupX, inner[member]);
    }
    if (next != null) {
      long groupQkv = qkv + panels.offset(first, 3 * hidden);
      long part = hidden * panels.pitch(first);
      run(next.query, groupX, hidden, groupQkv, 3 * hidden, group, Epilogue.NONE);
      run(next.key, groupX, hidden, groupQkv + part, 3 * hidden, group, Epilogue.NONE);
      run(next.value, groupX, hidden, groupQkv + 2 * part, 3 * hidden, group, Epilogue.NONE);
      return;
    }
    if (head != null) {
      run(head, groupX, hidden, y + panels.offset(first, outputs), outputs, group, Epilogue.NONE);
    }
    for (int panel = first; panel < end; panel++) {
      if (head == null) {
        emit(panel, x + panels.offset(panel, hidden), config.hiddenSize(), rows[member]);
      } else {
        emit(panel, y + panels.offset(panel, outputs), head.rows, rows[member]);
      }
    }
  }

  private void embed(int group, long groupX, int member) {
    int first = panels.firstPanel(group);
    long to = projection == null ? groupX : inner[member];
    for (int panel = first; panel < first + panels.panels(group); panel++) {
      long at = to + panels.offset(panel, embedding) - panels.offset(first, embedding);
      embed(panel, at, rows[member]);
    }
    normalize(embeddingsNorm, group, to, embedding, 0, to, embedding, config.embeddingSize());
    if (projection != null) {
      run(projection, to, embedding, groupX, hidden, group, Epilogue.NONE);
    }
  }

  private void embed(int panel, long to, long scratch) {
    int lanes = kernels.lanes();
    int size = config.embeddingSize();
    int padded = PanelProduct.padded(size);
    int first = panels.firstToken(panel);
    int end = first + panels.tokens(panel);
    long rowBytes = padded * (long) Float.BYTES;
    long pitch = panels.pitch(panel);
    int row = rowOf(first);
    for (int group = first; group < end; group += lanes) {
      for (int token = group; token < Math.min(end, group + lanes); token++) {
        if (token == batch.rowOffsets()[row + 1]) {
          row++;
        }
        long at = scratch + (token - group) * rowBytes;
        sum(token, token - batch.rowOffsets()[row], at, size);
        Memory.zero(at + size * (long) Float.BYTES, (padded - size) * (long) Float.BYTES);
      }
      long step = lanes * (long) Float.BYTES;
      long at = to + (group - first) * (long) Float.BYTES;
      kernels.transpose().run(scratch, rowBytes, step, at, pitch, lanes * pitch, padded / lanes);
    }
  }

  /** A token's three embeddings. */
  private void sum(int token, int place, long to, int size) {
    long a = word + batch.tokenIds()[token] * (long) size * Float.BYTES;
    long b = position + place * (long) size * Float.BYTES;
    long c = type + batch.typeIds()[token] * (long) size * Float.BYTES;
    for (int i = 0; i < size; i++) {
      long at = i * (long) Float.BYTES;
      float sum = Memory.getFloat(a + at) + Memory.getFloat(b + at);
      Memory.setFloat(to + at, sum + Memory.getFloat(c + at));
    }
  }

  private int rowOf(int token) {
    int row = 0;
    while (batch.rowOffsets()[row + 1] <= token) {
      row++;
    }
    return row;
  }

  /** A panel's first features as rows of the result. */
  private void emit(int panel, long from, int features, long scratch) {
    int lanes = kernels.lanes();
    int first = panels.firstToken(panel);
    int end = first + panels.tokens(panel);
    long pitch = panels.pitch(panel);
    long rowBytes = features * (long) Float.BYTES;
    long vectorBytes = lanes * (long) Float.BYTES;
    for (int group = first; group < end; group += lanes) {
      for (int feature = 0; feature < features; feature += lanes) {
        long source = from + feature * pitch + (group - first) * (long) Float.BYTES;
        kernels.transpose().run(source, pitch, scratch, vectorBytes);
        long bytes = Math.min(lanes, features - feature) * (long) Float.BYTES;
        for (int token = group; token < Math.min(end, group + lanes); token++) {
          long to = result.segment().address() + token * rowBytes + feature * (long) Float.BYTES;
          Memory.copy(scratch + (token - group) * vectorBytes, to, bytes);
        }
      }
    }
  }

  /** A layer from its attention's result on. */
  private void finish(Layer layer, int group, long groupX, long groupInner) {
    int first = panels.firstPanel(group);
    long groupContext = context + panels.offset(first, hidden);
    long groupY = y + panels.offset(first, outputs);
    int size = config.hiddenSize();
    run(layer.output, groupContext, hidden, groupY, outputs, group, Epilogue.NONE);
    normalize(layer.attentionNorm, group, groupY, outputs, groupX, groupX, hidden, size);
    run(layer.up, groupX, hidden, groupInner, intermediate, group, Epilogue.GELU);
    run(layer.down, groupInner, intermediate, groupY, outputs, group, Epilogue.NONE);
    normalize(layer.feedForwardNorm, group, groupY, outputs, groupX, groupX, hidden, size);
  }

  private void normalize(
      Norm norm,
      int group,
      long from,
      int fromFeatures,
      long residual,
      long to,
      int toFeatures,
      int size) {
    int first = panels.firstPanel(group);
    int width = panels.vectors(first) * kernels.lanes();
    for (int i = 0; i < panels.panels(group); i++) {
      long at = (long) i * fromFeatures * panels.pitch(first);
      long toAt = (long) i * toFeatures * panels.pitch(first);
      PanelNorm.run(
          from + at,
          residual == 0 ? 0 : residual + toAt,
          norm.gamma,
          norm.beta,
          norm.epsilon,
          to + toAt,
          size,
          width);
    }
  }

  /** A product of a group, whose panels have so many features in memory. */
  private void run(
      Product product,
      long from,
      int fromFeatures,
      long to,
      int toFeatures,
      int group,
      Epilogue epilogue) {
    int first = panels.firstPanel(group);
    int count = panels.panels(group);
    int vectors = panels.vectors(first);
    long fromPitch = fromFeatures * panels.pitch(first);
    long toPitch = toFeatures * panels.pitch(first);
    int row = 0;
    for (int i = 0; i < product.parts.size(); i++) {
      Part part = product.parts.get(i);
      long bias = product.bias + row * (long) Float.BYTES;
      long y = to + row * panels.pitch(first);
      if (part.sparse != null) {
        PanelProduct.run(
            kernels, part.sparse, from, fromPitch, bias, epilogue, y, toPitch, vectors, count);
      } else {
        for (int panel = 0; panel < count; panel++) {
          long panelX = from + panel * fromPitch;
          long panelY = y + panel * toPitch;
          PanelProduct.run(kernels, part.dense, panelX, bias, epilogue, panelY, vectors);
        }
      }
      row += part.rows();
    }
  }

  private void attend(int part, int member) {
    int heads = config.numAttentionHeads();
    int row = part / heads;
    int feature = part % heads * config.headSize();
    attention[member].run(
        panels,
        batch.rowOffsets()[row],
        batch.rowLength(row),
        qkv,
        3 * hidden,
        feature,
        hidden,
        context,
        hidden,
        feature);
  }

  @Override
  public void close() {
    pool.close();
  }
}
