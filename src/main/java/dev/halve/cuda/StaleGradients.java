package dev.halve.cuda;

import static dev.halve.cuda.CudaDevice.address;

import dev.halve.core.Tensor;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.WeakHashMap;

/**
 * Gradients that the optimizer has used and left as they lie. They count as zero: the next product
 * that makes one overwrites it, which saves a pass that writes zeros and one that reads them.
 */
final class StaleGradients {
  private final CudaContext context;
  private final Set<Tensor> madeWhole = Collections.newSetFromMap(new WeakHashMap<>());
  private final Map<Set<Tensor>, State> states = new HashMap<>();
  private State state = state(Set.of());

  /** Which gradients are stale; there is one object for each such set. */
  static final class State {
    private final Set<Tensor> stale;

    private State(Set<Tensor> stale) {
      this.stale = stale;
    }
  }

  StaleGradients(CudaContext context) {
    this.context = context;
  }

  private State state(Set<Tensor> stale) {
    return states.computeIfAbsent(stale, State::new);
  }

  State state() {
    return state;
  }

  /** As after a replay of what ended so. */
  void set(State state) {
    this.state = state;
  }

  /**
   * Asks for gradients that a product makes whole.
   *
   * @return whether it is to overwrite them; else it adds
   */
  boolean take(List<Tensor> gradients) {
    madeWhole.addAll(gradients);
    if (state.stale.containsAll(gradients)) {
      written(gradients);
      return true;
    }
    clear(gradients);
    return false;
  }

  /** Whether the optimizer may leave a gradient as it lies. */
  boolean mayStay(Tensor gradient) {
    return madeWhole.contains(gradient);
  }

  /** After the optimizer has left these as they lie. */
  void left(Collection<Tensor> gradients) {
    Set<Tensor> more = new HashSet<>(state.stale);
    more.addAll(gradients);
    state = state(Set.copyOf(more));
  }

  /** Before something else reads tensors or adds to them. */
  void clear(Collection<Tensor> tensors) {
    for (Tensor each : tensors) {
      if (state.stale.contains(each)) {
        CudaDriver.fill(address(each), (byte) 0, each.bytes(), context.stream());
      }
    }
    written(tensors);
  }

  /** After something has written tensors. */
  void written(Collection<Tensor> tensors) {
    if (tensors.stream().anyMatch(state.stale::contains)) {
      Set<Tensor> fewer = new HashSet<>(state.stale);
      tensors.forEach(fewer::remove);
      state = state(Set.copyOf(fewer));
    }
  }
}
