package dev.halve.cli;

import picocli.CommandLine.Option;

/** Where a model runs. */
final class DeviceOption {
  @Option(
      names = "--device",
      paramLabel = "DEVICE",
      defaultValue = "auto",
      description = "cpu, cuda:0, or auto: the first GPU that works, else the CPU (default: auto).")
  private String name;

  String name() {
    return name;
  }
}
