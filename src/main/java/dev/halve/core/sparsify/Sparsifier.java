package dev.halve.core.sparsify;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.ArrayList;
import java.util.Collection;
import java.util.List;

/**
 * The three steps of every pruning method, as in torch.ao.pruning: {@link #prepare} attaches a mask
 * of ones to each layer, {@link #step} computes the masks (as often as a schedule asks), {@link
 * #squashMask} leaves dense weights with zeros in them and no masks.
 */
public abstract class Sparsifier {
  private final List<Sparsifiable> layers = new ArrayList<>();

  /** Whether a weight of this shape can be pruned to the layer's pattern. */
  protected abstract boolean fits(String layer, Shape weight);

  /**
   * Computes one mask.
   *
   * @param layer the layer's name
   * @param weight F32 {@code [out, in]}, finite; a method that changes what it keeps writes here
   * @param mask U8 {@code [out, in]}, all zeros; 1 keeps an element
   */
  protected abstract void update(String layer, Tensor weight, Tensor mask);

  /**
   * Takes on the layers that fit, each with a mask of ones.
   *
   * @return the names of the layers whose shape does not fit the pattern; they stay dense
   */
  public List<String> prepare(Collection<? extends Sparsifiable> candidates) {
    if (!layers.isEmpty()) {
      throw new IllegalStateException("already prepared; squash the masks first");
    }
    List<String> leftDense = new ArrayList<>();
    for (Sparsifiable layer : candidates) {
      try (Arena arena = Arena.ofConfined()) {
        Shape shape = layer.weight(arena).shape();
        if (!fits(layer.name(), shape)) {
          leftDense.add(layer.name());
          continue;
        }
        Tensor ones = Tensor.allocate(arena, DType.U8, shape.extents());
        ones.segment().fill((byte) 1);
        layer.setMask(ones);
        layers.add(layer);
      }
    }
    return leftDense;
  }

  /**
   * Computes every layer's mask from its weight as it is now, and zeroes what it does not keep.
   *
   * @throws HalveException if a weight holds NaN or infinity
   */
  public void step() {
    for (Sparsifiable layer : layers) {
      try (Arena arena = Arena.ofConfined()) {
        Tensor weight = layer.weight(arena).requireFinite(layer.name() + ".weight");
        Tensor mask = Tensor.allocate(arena, DType.U8, weight.shape().extents());
        update(layer.name(), weight, mask);
        apply(mask, weight);
        layer.setWeight(weight);
        layer.setMask(mask);
      }
    }
  }

  /** Fuses the masks into the weights, where a pruned element is +0.0, and takes them off. */
  public void squashMask() {
    for (Sparsifiable layer : layers) {
      try (Arena arena = Arena.ofConfined()) {
        Tensor weight = layer.weight(arena);
        apply(layer.mask(arena), weight);
        layer.setMask(null);
        layer.setWeight(weight);
      }
    }
    layers.clear();
  }

  /** Zeroes what a mask does not keep, also of an infinity, and never to -0.0. */
  static void apply(Tensor mask, Tensor weight) {
    for (long i = 0, n = weight.elements(); i < n; i++) {
      if (mask.segment().get(ValueLayout.JAVA_BYTE, i) == 0) {
        weight.setFloat(i, 0.0f);
      }
    }
  }
}
