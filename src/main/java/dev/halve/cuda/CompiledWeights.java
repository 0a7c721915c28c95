package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.cuda.Operations.Norm;
import dev.halve.engine.BertModel;
import dev.halve.engine.EncoderLayer;
import dev.halve.engine.LayerNorm;
import dev.halve.engine.Linear;
import dev.halve.engine.Parameter;
import dev.halve.engine.Weight;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;

/**
 * Copies of a model's weights, as its compiled pass reads them: queries, keys and values one
 * product, norms folded into 2:4 products where they can be. Device addresses, in a pool that owns
 * the memory.
 */
final class CompiledWeights {
  final boolean foldsNorms;
  final List<Layer> layers = new ArrayList<>();
  final long word;
  final long position;
  final long type;
  final Norm embeddingsNorm;

  /** From the embeddings' width to the model's; null where they are one. */
  final Product projection;

  /** Outputs of the head; 0 where there is none. */
  final int labels;

  final long headWeight;
  final long headBias;

  private final CudaDevice device;
  private final CudaContext context;
  private final CudaPool pool;
  private long bytes;

  /**
   * A product's weight and bias; one of the two weights is there.
   *
   * @param slope of the norm that is folded into it; 0 where none is
   */
  record Product(int out, int in, long dense, CudaPackedWeight sparse, long bias, long slope) {}

  record Layer(
      Product qkv,
      Product output,
      Norm attentionNorm,
      Product intermediate,
      Product down,
      Norm outputNorm) {}

  /**
   * @param head null for none
   */
  CompiledWeights(CudaDevice device, CudaPool pool, BertModel model, Linear head) {
    this.device = device;
    this.context = device.context();
    this.pool = pool;
    this.foldsNorms = context.properties().isHopper() && isFoldable(model);
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
  }

  /** What the weights of the products take. */
  long bytes() {
    return bytes;
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
    bytes += packed.bytes();
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
    bytes += 2L * out * in;
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
      case Weight.Trainable trainable -> copy(trainable.parameter().compute(), to);
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
}
