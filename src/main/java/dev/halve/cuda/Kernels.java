package dev.halve.cuda;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.cuda.KernelLaunch.Kernel;
import java.util.HashMap;
import java.util.Map;
import java.util.TreeMap;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;

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
  private final Map<String, Callable<byte[]>> ahead = new HashMap<>();

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
   * @param threads of a block
   * @param sharedBytes of dynamic shared memory
   */
  Kernel get(
      String source, String entry, Map<String, String> definitions, int threads, int sharedBytes) {
    String moduleKey = source + new TreeMap<>(definitions);
    if (context.rehearsing()) {
      if (!modules.containsKey(moduleKey)) {
        ahead.put(moduleKey, () -> compiler.compile(source, complete(definitions)));
      }
      int blocks = context.properties().multiprocessors();
      return new Kernel(entry, 0, threads, sharedBytes, blocks);
    }
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

  /**
   * Compiles what the work will ask for, side by side and into the cache, and leaves the work
   * undone: one after another, as they are asked for, it would take several times as long.
   */
  void compileAhead(Runnable work) {
    context.rehearse(work);
    if (ahead.isEmpty()) {
      return;
    }
    int threads = Math.min(ahead.size(), Runtime.getRuntime().availableProcessors());
    try (ExecutorService compilers = Executors.newFixedThreadPool(threads)) {
      for (Future<byte[]> each : compilers.invokeAll(ahead.values())) {
        each.get();
      }
    } catch (InterruptedException stopped) {
      Thread.currentThread().interrupt();
    } catch (ExecutionException failed) {
      throw failed.getCause() instanceof HalveException bad
          ? bad
          : new IllegalStateException(failed.getCause());
    } finally {
      ahead.clear();
    }
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
