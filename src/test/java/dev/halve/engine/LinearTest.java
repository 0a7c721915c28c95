package dev.halve.engine;

import static org.assertj.core.api.Assertions.assertThat;
import static org.assertj.core.api.Assertions.assertThatThrownBy;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import java.lang.foreign.Arena;
import java.lang.reflect.InvocationHandler;
import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.List;
import org.junit.jupiter.api.Test;

class LinearTest {
  /** Pools that are open. */
  private final List<Pool> open = new ArrayList<>();

  /** The CPU, without memory for packed weights. */
  private Device full(Device cpu) {
    InvocationHandler handler =
        (_, method, arguments) ->
            switch (method.getName()) {
              case "openPool" -> watched(cpu.openPool());
              case "pack" -> throw new HalveException("out of memory");
              default -> method.invoke(cpu, arguments);
            };
    Class<?>[] faces = {Device.class};
    return (Device) Proxy.newProxyInstance(Device.class.getClassLoader(), faces, handler);
  }

  private Pool watched(Pool pool) {
    open.add(pool);
    return new Pool() {
      @Override
      public Tensor allocate(DType dtype, long... extents) {
        return pool.allocate(dtype, extents);
      }

      @Override
      public void close() {
        open.remove(pool);
        pool.close();
      }
    };
  }

  @Test
  void aWeightThatFindsNoMemoryLeavesTheOldOneAndNothingElse() {
    try (Device cpu = Devices.open("cpu");
        Pool biases = cpu.openPool();
        Arena arena = Arena.ofConfined()) {
      Linear linear = new Linear(full(cpu), biases, "query", 32, 16);
      Tensor weight = linear.weight(arena);
      for (long i = 0; i < weight.elements(); i += 2) {
        weight.setFloat(i, (float) i + 1);
      }
      linear.setWeight(weight);
      SparseSemiStructuredTensor sparse = SparseSemiStructuredTensor.compress(arena, weight);
      assertThatThrownBy(() -> linear.setCompressed(sparse)).hasMessage("out of memory");
      assertThat(open).hasSize(1);
      assertThat(linear.weight(arena).segment().mismatch(weight.segment())).isEqualTo(-1);
      linear.close();
      assertThat(open).isEmpty();
    }
  }
}
