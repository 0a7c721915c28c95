package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;
import java.util.ArrayList;
import java.util.List;

/**
 * A trained tensor under its Hugging Face name.
 *
 * <p>{@code value} is the F32 master copy; {@code compute} is what the device's operations read:
 * the same tensor where the device computes in F32, a rounded copy elsewhere, which {@link
 * Device#round} and {@link Device#adamW} keep in step. Where a pruned parameter is trained straight
 * through, {@code value} keeps what the mask prunes and {@code compute} does not. {@code gradient}
 * and the two moments are F32 and exist only while the model is prepared for training. {@code mask}
 * (U8, 1 keeps) exists while the parameter is pruned: the optimizer holds masked elements, and
 * their moments, at zero.
 */
public final class Parameter {
  private final String name;
  private final Tensor value;
  private Tensor compute;
  private boolean straightThrough;
  private Tensor gradient;
  private Tensor firstMoment;
  private Tensor secondMoment;
  private Tensor mask;

  public Parameter(String name, Tensor value, Tensor compute) {
    this.name = name;
    this.value = value;
    this.compute = compute;
  }

  /** A parameter of zeros in the pool's memory. */
  static Parameter allocate(Device device, Pool pool, String name, long... extents) {
    Tensor value = pool.allocate(DType.F32, extents);
    Tensor compute =
        device.computeType() == value.dtype()
            ? value
            : pool.allocate(device.computeType(), extents);
    return new Parameter(name, value, compute);
  }

  /**
   * Parameters of zeros of one shape, one after another in memory.
   *
   * @param extents of each; the outermost counts its rows
   */
  static List<Parameter> allocateSideBySide(
      Device device, Pool pool, List<String> names, long... extents) {
    long[] together = extents.clone();
    together[0] *= names.size();
    Tensor values = pool.allocate(DType.F32, together);
    Tensor computes =
        device.computeType() == DType.F32 ? values : pool.allocate(device.computeType(), together);
    List<Parameter> parameters = new ArrayList<>(names.size());
    for (int i = 0; i < names.size(); i++) {
      Tensor value = values.rows(i * extents[0], extents[0]);
      Tensor compute = computes == values ? value : computes.rows(i * extents[0], extents[0]);
      parameters.add(new Parameter(names.get(i), value, compute));
    }
    return parameters;
  }

  public String name() {
    return name;
  }

  public Tensor value() {
    return value;
  }

  public Tensor compute() {
    return compute;
  }

  /** Null unless prepared for training. */
  public Tensor gradient() {
    return gradient;
  }

  public Tensor firstMoment() {
    return firstMoment;
  }

  public Tensor secondMoment() {
    return secondMoment;
  }

  /** Null unless pruned. */
  public Tensor mask() {
    return mask;
  }

  public void setMask(Tensor mask) {
    if (mask != null && !mask.shape().equals(value.shape())) {
      throw new IllegalArgumentException(
          "mask " + mask.shape() + " for " + name + " " + value.shape());
    }
    this.mask = mask;
  }

  /** Whether operations read the pruned weight, and its gradient goes to the dense one. */
  public boolean isStraightThrough() {
    return straightThrough;
  }

  /** From now on {@code compute} leaves out what the mask prunes, and {@code value} keeps it. */
  void trainStraightThrough(Pool pool) {
    if (compute == value) {
      compute = pool.allocate(DType.F32, value.shape().extents());
    }
    straightThrough = true;
  }

  /**
   * Gives parameters gradients and moments of zeros, one after another in memory, each from a
   * multiple of {@link Tensor#ALIGNMENT}.
   */
  public static void prepareTraining(Pool pool, List<Parameter> parameters) {
    long elements = 0;
    for (Parameter each : parameters) {
      elements += aligned(each.value.elements());
    }
    Tensor gradients = pool.allocate(DType.F32, elements);
    Tensor firstMoments = pool.allocate(DType.F32, elements);
    Tensor secondMoments = pool.allocate(DType.F32, elements);
    long from = 0;
    for (Parameter each : parameters) {
      long count = each.value.elements();
      long[] extents = each.value.shape().extents();
      each.gradient = gradients.rows(from, count).reshape(extents);
      each.firstMoment = firstMoments.rows(from, count).reshape(extents);
      each.secondMoment = secondMoments.rows(from, count).reshape(extents);
      from += aligned(count);
    }
  }

  private static long aligned(long elements) {
    long step = Tensor.ALIGNMENT / DType.F32.bytes();
    return (elements + step - 1) / step * step;
  }

  /** Forgets the gradient and the moments; their pool frees them. */
  public void endTraining() {
    gradient = null;
    firstMoment = null;
    secondMoment = null;
  }
}
