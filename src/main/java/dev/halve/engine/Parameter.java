package dev.halve.engine;

import dev.halve.core.DType;
import dev.halve.core.Tensor;

/**
 * A trained tensor under its Hugging Face name.
 *
 * <p>{@code value} is the F32 master copy; {@code compute} is what the device's operations read:
 * the same tensor where the device computes in F32, a rounded copy elsewhere, which {@link
 * Device#round} and {@link Device#adamW} keep in step. {@code gradient} and the two moments are F32
 * and exist only while the model is prepared for training. {@code mask} (U8, 1 keeps) exists while
 * the parameter is pruned: the optimizer holds masked elements, and their moments, at zero.
 */
public final class Parameter {
  private final String name;
  private final Tensor value;
  private final Tensor compute;
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

  /** Gives the parameter a gradient and moments of zeros. */
  public void prepareTraining(Pool pool) {
    gradient = pool.allocate(value.dtype(), value.shape().extents());
    firstMoment = pool.allocate(value.dtype(), value.shape().extents());
    secondMoment = pool.allocate(value.dtype(), value.shape().extents());
  }

  /** Forgets the gradient and the moments; their pool frees them. */
  public void endTraining() {
    gradient = null;
    firstMoment = null;
    secondMoment = null;
  }
}
