package dev.halve.engine;

import org.junit.jupiter.api.Assumptions;

/** The first GPU, for tests that train on one; without, they are skipped and say why. */
public final class TrainingGpu {
  private TrainingGpu() {}

  public static Device open() {
    var found = Devices.discover().stream().filter(each -> each.name().startsWith("cuda")).toList();
    Assumptions.assumeTrue(
        found.stream().anyMatch(each -> each.name().equals("cuda:0") && each.available()),
        () -> "no GPU: " + (found.isEmpty() ? "no CUDA" : found.getFirst().description()));
    return Devices.openForTraining("cuda:0");
  }
}
