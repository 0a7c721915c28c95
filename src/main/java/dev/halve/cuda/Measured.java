package dev.halve.cuda;

import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;

/**
 * Choices made by timing the candidates on this GPU, kept on disk: a choice is measured once, then
 * read.
 */
final class Measured {
  private static final int REPEATS = 5;

  private final CudaContext context;
  private final KernelCache cache;
  private final Map<String, byte[]> known = new HashMap<>();

  Measured(CudaContext context, KernelCache cache) {
    this.context = context;
    this.cache = cache;
  }

  /** One way to do the work. */
  interface Candidate {
    /** What is kept on disk and found again. */
    byte[] name();

    /** Queues the work once; false where this candidate cannot do it. */
    boolean run();
  }

  /** The choice made earlier, in this process or another. */
  Optional<byte[]> choice(String... question) {
    String key = key(question);
    if (!known.containsKey(key)) {
      cache.read(key).ifPresent(found -> known.put(key, found));
    }
    return Optional.ofNullable(known.get(key));
  }

  /**
   * Times every candidate and keeps the fastest.
   *
   * @return empty if none can do the work
   */
  Optional<byte[]> measure(List<? extends Candidate> candidates, String... question) {
    byte[] best = null;
    float bestMillis = Float.POSITIVE_INFINITY;
    try (Stopwatch stopwatch = new Stopwatch(context)) {
      for (Candidate candidate : candidates) {
        if (!candidate.run()) {
          continue;
        }
        float millis = stopwatch.medianMillis(REPEATS, candidate::run);
        if (millis < bestMillis) {
          bestMillis = millis;
          best = candidate.name();
        }
      }
    }
    if (best != null) {
      String key = key(question);
      known.put(key, best);
      cache.write(key, best);
    }
    return Optional.ofNullable(best);
  }

  private String key(String... question) {
    GpuProperties gpu = context.properties();
    return KernelCache.key(
        "choice", gpu.name(), String.valueOf(CudaDriver.version()), String.join("\n", question));
  }
}
