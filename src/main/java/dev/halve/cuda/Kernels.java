package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.cuda.KernelLaunch.Kernel;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;

/**
 * The kernels loaded on one GPU, for one element type. Each is compiled, or read from the cache,
 * when it is first asked for, and stays loaded until this is closed.
 */
final class Kernels implements AutoCloseable {
  private final CudaContext context;
  private final KernelCompiler compiler;
  private final DType dtype;
  private final Map<String, Long> modules = new HashMap<>();
  private final Map<String, Kernel> kernels = new HashMap<>();

  Kernels(CudaContext context, KernelCache cache, DType dtype) {
    this.context = context;
    this.dtype = dtype;
    this.compiler =
        new KernelCompiler(
            cache,
            context.properties().architecture(),
            context.properties().name() + " " + CudaDriver.version());
  }

  /**
   * A kernel of a source.
   *
   * @param source {@code layer_norm.cu}
   * @param entry the function's name in it
   * @param definitions of the source's compile-time constants
   * @param threads of a block, at most
   * @param sharedBytes of dynamic shared memory
   */
  Kernel get(
      String source, String entry, Map<String, String> definitions, int threads, int sharedBytes) {
    String moduleKey = source + new TreeMap<>(definitions);
    return kernels.computeIfAbsent(
        moduleKey + entry + threads + "," + sharedBytes,
        key -> {
          long module = modules.computeIfAbsent(moduleKey, ignored -> load(source, definitions));
          long function = CudaDriver.function(module, entry);
          if (sharedBytes > 48 << 10) {
            CudaDriver.allowDynamicShared(function, sharedBytes);
          }
          int resident = CudaDriver.blocksPerMultiprocessor(function, threads, sharedBytes);
          return new Kernel(
              entry,
              function,
              threads,
              sharedBytes,
              resident * context.properties().multiprocessors());
        });
  }

  Kernel get(String source, String entry, Map<String, String> definitions, int threads) {
    return get(source, entry, definitions, threads, 0);
  }

  /** Changes whenever the source or one of its headers does. */
  String sourceHash(String source) {
    return compiler.sourceHash(source);
  }

  private Map<String, String> complete(Map<String, String> definitions) {
    Map<String, String> all = new HashMap<>(definitions);
    if (dtype == DType.BF16) {
      all.put("HALVE_BF16", "1");
    }
    return all;
  }

  private long load(String source, Map<String, String> definitions) {
    long module = CudaDriver.loadModule(compiler.compile(source, complete(definitions)));
    OpenResources.opened();
    return module;
  }

  @Override
  public void close() {
    for (long module : modules.values()) {
      CudaDriver.unloadModule(module);
      OpenResources.closed();
    }
    modules.clear();
    kernels.clear();
  }
}
