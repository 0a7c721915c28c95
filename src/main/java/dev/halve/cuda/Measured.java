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
  private static final int REPEATS = 3;
  private static final int RUNS = 2;

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
   * Times every candidate and keeps the fastest. In a rehearsal each says what it needs, and the
   * answer, which the caller does not keep, says nothing.
   *
   * @return empty if none can do the work
   */
  Optional<byte[]> measure(List<? extends Candidate> candidates, String... question) {
    if (context.rehearsing()) {
      candidates.forEach(Candidate::run);
      return Optional.of(candidates.getFirst().name());
    }
    byte[] best = null;
    float bestMillis = Float.POSITIVE_INFINITY;
    try (Stopwatch stopwatch = new Stopwatch(context)) {
      for (Candidate candidate : candidates) {
        if (!candidate.run()) {
          continue;
        }
        float millis = medianMillis(stopwatch, candidate);
        if (millis < bestMillis) {
          bestMillis = millis;
          best = candidate.name();
        }
      }
    }
    if (best != null) {
      String key = key(question);
      // What another process has chosen meanwhile stands, so that both compute the same bits.
      Optional<byte[]> chosen = cache.read(key);
      best = chosen.orElse(best);
      known.put(key, best);
      if (chosen.isEmpty()) {
        cache.write(key, best);
      }
    }
    return Optional.ofNullable(best);
  }

  /** Of a graph of several runs, so that what the host does between launches does not count. */
  private float medianMillis(Stopwatch stopwatch, Candidate candidate) {
    Runnable runs =
        () -> {
          for (int i = 0; i < RUNS; i++) {
            candidate.run();
          }
        };
    // What the runs ask for they have before they are recorded.
    runs.run();
    try (CudaGraph graph = CudaGraph.record(context, runs)) {
      float millis = stopwatch.medianMillis(REPEATS, () -> graph.launch(context));
      context.synchronize();
      return millis;
    }
  }

  private String key(String... question) {
    GpuProperties gpu = context.properties();
    return KernelCache.key(
        "choice", gpu.name(), String.valueOf(CudaDriver.version()), String.join("\n", question));
  }
}
