package dev.halve.core.sparsify;

import dev.halve.core.Tensor;
import java.lang.foreign.Arena;

/** A layer that is nothing but its weight and mask, in the memory of the test. */
final class HostLayer implements Sparsifiable {
  private final String name;
  final Tensor weight;
  Tensor mask;
  private final Arena owner;

  HostLayer(Arena owner, String name, Tensor weight) {
    this.owner = owner;
    this.name = name;
    this.weight = weight;
  }

  @Override
  public String name() {
    return name;
  }

  @Override
  public Tensor weight(Arena arena) {
    return copy(arena, weight);
  }

  @Override
  public void setWeight(Tensor host) {
    weight.copyFrom(host);
  }

  @Override
  public Tensor mask(Arena arena) {
    return mask == null ? null : copy(arena, mask);
  }

  @Override
  public void setMask(Tensor host) {
    mask = host == null ? null : copy(owner, host);
  }

  private static Tensor copy(Arena arena, Tensor tensor) {
    Tensor copy = Tensor.allocate(arena, tensor.dtype(), tensor.shape().extents());
    copy.copyFrom(tensor);
    return copy;
  }
}
