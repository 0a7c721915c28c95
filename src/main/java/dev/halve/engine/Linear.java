package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparsify.Sparsifiable;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.function.Consumer;
import java.util.function.Function;

/**
 * A linear layer, {@code y = x · weightᵀ + bias}: {@code x [tokens, in]}, {@code weight [out, in]},
 * {@code bias [out]}. Its weight is dense, masked or compressed; nothing outside this class needs
 * to know which.
 */
public final class Linear implements Sparsifiable, AutoCloseable {
  private final Device device;
  private final String name;
  private final Parameter bias;
  private Pool weightPool;
  private Weight weight;

  /**
   * A layer of zeros.
   *
   * @param name the module's name: {@code bert.encoder.layer.0.attention.self.query}
   */
  Linear(Device device, Pool pool, String name, int in, int out) {
    this.device = device;
    this.name = name;
    // The weight has a pool of its own, so that compressing frees the dense copy.
    this.weightPool = device.openPool();
    this.weight =
        new Weight.Dense(Parameter.allocate(device, weightPool, name + ".weight", out, in));
    this.bias = Parameter.allocate(device, pool, name + ".bias", out);
  }

  private Linear(Device device, Pool weightPool, String name, Parameter weight, Parameter bias) {
    this.device = device;
    this.name = name;
    this.weightPool = weightPool;
    this.weight = new Weight.Dense(weight);
    this.bias = bias;
  }

  /**
   * Layers of zeros for one input, whose weights and biases lie one after another in memory, so
   * that a device may multiply them as one.
   */
  static List<Linear> sideBySide(Device device, Pool pool, List<String> names, int in, int out) {
    Pool weightPool = new SharedPool(device.openPool(), names.size());
    List<String> weightNames = names.stream().map(name -> name + ".weight").toList();
    List<String> biasNames = names.stream().map(name -> name + ".bias").toList();
    List<Parameter> weights =
        Parameter.allocateSideBySide(device, weightPool, weightNames, out, in);
    List<Parameter> biases = Parameter.allocateSideBySide(device, pool, biasNames, out);
    List<Linear> linears = new ArrayList<>(names.size());
    for (int i = 0; i < names.size(); i++) {
      linears.add(new Linear(device, weightPool, names.get(i), weights.get(i), biases.get(i)));
    }
    return List.copyOf(linears);
  }

  /** Memory that several layers hold, freed when the last lets go of it. */
  private static final class SharedPool implements Pool {
    private final Pool pool;
    private int holders;

    SharedPool(Pool pool, int holders) {
      this.pool = pool;
      this.holders = holders;
    }

    @Override
    public Tensor allocate(DType dtype, long... extents) {
      return pool.allocate(dtype, extents);
    }

    @Override
    public void close() {
      holders--;
      if (holders == 0) {
        pool.close();
      }
    }
  }

  /**
   * A layer on its own, outside a model, with a copy of a host F32 weight {@code [out, in]} and
   * bias {@code [out]}.
   */
  public static Linear of(Device device, Pool pool, Tensor weight, Tensor bias) {
    Linear linear =
        new Linear(
            device,
            pool,
            "linear",
            Math.toIntExact(weight.extent(1)),
            Math.toIntExact(weight.extent(0)));
    linear.setWeight(weight);
    device.upload(bias, linear.bias.value());
    device.round(linear.bias);
    return linear;
  }

  Device device() {
    return device;
  }

  /** The module's name, without {@code .weight}. */
  @Override
  public String name() {
    return name;
  }

  public Weight weight() {
    return weight;
  }

  public Parameter bias() {
    return bias;
  }

  public int in() {
    return Math.toIntExact(weight.shape().extent(1));
  }

  public int out() {
    return Math.toIntExact(weight.shape().extent(0));
  }

  void eachParameter(Consumer<Parameter> action) {
    eachWeight(action);
    action.accept(bias);
  }

  void eachWeight(Consumer<Parameter> action) {
    if (weight instanceof Weight.Trainable trainable) {
      action.accept(trainable.parameter());
    }
  }

  /** The dense weight's parameter. */
  private Parameter parameter() {
    return switch (weight) {
      case Weight.Trainable trainable -> trainable.parameter();
      case Weight.Compressed _, Weight.Hybrid _ ->
          throw new HalveException(
              name
                  + ".weight is compressed, for inference only; decompress the model to change it");
    };
  }

  /** F32 {@code [out, in]}; null unless prepared for training. */
  Tensor weightGradient() {
    return parameter().gradient();
  }

  /** Chooses the 2:4 mask of a masked weight anew, by magnitude. */
  public void chooseMask() {
    device.chooseMask(parameter().value(), parameter().mask());
    if (parameter().isStraightThrough()) {
      device.round(parameter());
    }
  }

  /**
   * From now on passes read the weight without what its mask prunes, while the weight itself stays
   * dense and takes the gradient of all its elements.
   */
  public void trainStraightThrough() {
    parameter().trainStraightThrough(weightPool);
    device.round(parameter());
  }

  /** A host copy of the weight, F32 {@code [out, in]}, whatever its kind. */
  @Override
  public Tensor weight(Arena arena) {
    Tensor copy = Tensor.allocate(arena, DType.F32, weight.shape().extents());
    download(weight, copy);
    return copy;
  }

  private void download(Weight from, Tensor host) {
    switch (from) {
      case Weight.Trainable trainable -> device.download(trainable.parameter().value(), host);
      case Weight.Compressed compressed -> {
        try (Arena scratch = Arena.ofConfined()) {
          host.copyFrom(compressed.packed().unpack(scratch).decompress(scratch));
        }
      }
      case Weight.Hybrid hybrid -> {
        long row = 0;
        for (Weight part : hybrid.parts()) {
          long rows = part.shape().extent(0);
          download(part, host.rows(row, rows));
          row += rows;
        }
      }
    }
  }

  /** Copies a host weight {@code [out, in]} in; masks stay as they are. */
  @Override
  public void setWeight(Tensor host) {
    device.upload(host, parameter().value());
    device.round(parameter());
  }

  /** A host copy of the mask, U8 {@code [out, in]}, or null. */
  @Override
  public Tensor mask(Arena arena) {
    if (!(weight instanceof Weight.Masked(Parameter parameter))) {
      return null;
    }
    Tensor copy = Tensor.allocate(arena, DType.U8, weight.shape().extents());
    device.download(parameter.mask(), copy);
    return copy;
  }

  /**
   * Puts a mask on the weight, or takes it off. The caller keeps the weight itself zero where the
   * mask is: {@link #setWeight}.
   *
   * @param host U8 {@code [out, in]}, 1 keeps; null for a dense weight
   */
  @Override
  public void setMask(Tensor host) {
    Parameter parameter = parameter();
    if (host == null) {
      parameter.setMask(null);
      weight = new Weight.Dense(parameter);
      return;
    }
    Tensor mask =
        parameter.mask() != null
            ? parameter.mask()
            : weightPool.allocate(DType.U8, weight.shape().extents());
    device.upload(host, mask);
    parameter.setMask(mask);
    weight = new Weight.Masked(parameter);
  }

  /**
   * Replaces a weight that is 2:4 by its compressed form and frees the dense one.
   *
   * @throws HalveException if some group of four holds more than two nonzeros
   */
  public void toSparseSemiStructured() {
    try (Arena arena = Arena.ofConfined()) {
      setCompressed(SparseSemiStructuredTensor.compress(arena, weight(arena)));
    } catch (HalveException notSemiStructured) {
      throw notSemiStructured.in(name + ".weight");
    }
  }

  /** Takes a compressed weight of this layer's shape; the dense one, if any, is freed. */
  public void setCompressed(SparseSemiStructuredTensor tensor) {
    requireShape(tensor.shape());
    replace(pool -> new Weight.Compressed(tensor.shape(), device.pack(pool, tensor)));
  }

  /** Takes a hybrid weight of this layer's shape; the dense one, if any, is freed. */
  public void setHybrid(HybridTensor tensor) {
    requireShape(tensor.shape());
    replace(pool -> {
      List<Weight> parts = tensor.runs().stream().map(run -> part(pool, tensor, run)).toList();
      return new Weight.Hybrid(name + ".weight", tensor.shape(), parts);
    });
  }

  private Weight part(Pool pool, HybridTensor tensor, HybridTensor.Run run) {
    if (!run.isDense()) {
      SparseSemiStructuredTensor rows = tensor.sparse(run);
      return new Weight.Compressed(rows.shape(), device.pack(pool, rows));
    }
    String part = name + ".weight[" + run.first() + ":" + (run.first() + run.rows()) + "]";
    Parameter rows = Parameter.allocate(device, pool, part, run.rows(), in());
    device.upload(tensor.dense().rows(run.stored(), run.rows()), rows.value());
    device.round(rows);
    return new Weight.Dense(rows);
  }

  /** Puts a weight of a pool of its own in the place of this one, which is freed. */
  private void replace(Function<Pool, Weight> making) {
    Pool pool = device.openPool();
    try {
      weight = making.apply(pool);
    } catch (RuntimeException failure) {
      pool.close();
      throw failure;
    }
    weightPool.close();
    weightPool = pool;
  }

  private void requireShape(Shape found) {
    if (!found.equals(weight.shape())) {
      throw new HalveException(
          "%s.weight: expected shape %s, found %s".formatted(name, weight.shape(), found));
    }
  }

  /**
   * Replaces a compressed or hybrid weight by its dense form, which can be trained; does nothing
   * else.
   */
  public void toDense() {
    if (weight instanceof Weight.Trainable) {
      return;
    }
    replace(pool -> {
      Parameter parameter = Parameter.allocate(device, pool, name + ".weight", out(), in());
      try (Arena arena = Arena.ofConfined()) {
        device.upload(weight(arena), parameter.value());
        device.round(parameter);
      }
      return new Weight.Dense(parameter);
    });
  }

  /** Bytes of device memory that the weight takes for inference. */
  public long weightBytes() {
    return bytes(weight);
  }

  private static long bytes(Weight weight) {
    return switch (weight) {
      case Weight.Hybrid hybrid -> hybrid.parts().stream().mapToLong(Linear::bytes).sum();
      case Weight.Trainable trainable -> trainable.parameter().compute().bytes();
      case Weight.Compressed compressed -> compressed.packed().bytes();
    };
  }

  /**
   * Writes {@code epilogue(x · weightᵀ + bias)} into columns {@code [column, column + out)} of
   * {@code y}.
   */
  void forward(Pass pass, Tensor x, Epilogue epilogue, Tensor y, int column) {
    pass.device().linear(x, weight, bias.compute(), epilogue, y, column);
  }

  /**
   * The layer alone, from host to host: {@code [tokens, in]} to F32 {@code [tokens, out]}, owned by
   * the arena.
   */
  public Tensor forward(Arena arena, Tensor host) {
    if (host.shape().rank() != 2 || host.extent(1) != in()) {
      throw new HalveException(
          "%s takes [tokens, %d], found %s".formatted(name, in(), host.shape()));
    }
    try (Pool pool = device.openPool()) {
      Tensor x = pool.allocate(device.computeType(), host.shape().extents());
      Tensor y = pool.allocate(device.computeType(), host.extent(0), out());
      Tensor result = Tensor.allocate(arena, DType.F32, y.shape().extents());
      device.upload(host, x);
      forward(x, y);
      device.download(y, result);
      return result;
    }
  }

  /** The layer alone, in the device's memory: {@code x [tokens, in]}, {@code y [tokens, out]}. */
  public void forward(Tensor x, Tensor y) {
    device.linear(x, weight, bias.compute(), Epilogue.NONE, y, 0);
  }

  /** Adds to the gradients of weight and bias; writes or adds to {@code dX}, which may be null. */
  void backward(Pass pass, Tensor x, Tensor dY, int column, Tensor dX, boolean addToInput) {
    pass.device()
        .linearBackward(
            x, weight, dY, column, parameter().gradient(), bias.gradient(), dX, addToInput);
  }

  /** The same where the bias has its gradient from elsewhere. */
  void backwardWithoutBias(Pass pass, Tensor x, Tensor dY, Tensor dX, boolean addToInput) {
    pass.device().linearBackward(x, weight, dY, 0, parameter().gradient(), null, dX, addToInput);
  }

  /** {@code inner = x · weightᵀ + bias}, {@code y = gelu(inner)}. */
  void forwardGelu(Pass pass, Tensor x, Tensor inner, Tensor y) {
    pass.device().linearGelu(x, weight, bias.compute(), inner, y);
  }

  /**
   * Adds to the weight's gradient, without the bias's; writes {@code dInner}, the gradient of what
   * the producer made and GELU turned into this layer's input, and adds to the producer's bias's.
   */
  void backwardThroughGelu(
      Pass pass, Tensor activated, Tensor dY, Tensor inner, Tensor dInner, Linear producer) {
    pass.device()
        .linearGeluBackward(
            activated,
            weight,
            dY,
            parameter().gradient(),
            inner,
            dInner,
            producer.bias().gradient());
  }

  @Override
  public void close() {
    weightPool.close();
  }
}
