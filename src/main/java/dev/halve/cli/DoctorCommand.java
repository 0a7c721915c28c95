package dev.halve.cli;

import dev.halve.engine.DeviceProvider.Finding;
import dev.halve.recipe.Installation;
import dev.halve.report.Numbers;
import java.util.List;
import picocli.CommandLine.Command;
import tools.jackson.databind.PropertyNamingStrategies.SnakeCaseStrategy;
import tools.jackson.databind.annotation.JsonNaming;

/** {@code halve doctor}. */
@Command(
    name = "doctor",
    header = "Says what this machine offers",
    description =
        "Devices, instruction sets, native libraries and models that were found, and "
            + "what to do about those that were not.",
    footer = {"  ./halve doctor", "  ./halve doctor --json"})
final class DoctorCommand extends HalveCommand {
  @JsonNaming(SnakeCaseStrategy.class)
  private record Machine(
      String halve,
      String java,
      String javaHome,
      String os,
      String arch,
      int processors,
      long maxHeapBytes) {
    static Machine found() {
      return new Machine(
          Main.Version.ofHalve(),
          Runtime.version() + " (" + System.getProperty("java.vendor") + ")",
          System.getProperty("java.home"),
          System.getProperty("os.name") + " " + System.getProperty("os.version"),
          System.getProperty("os.arch"),
          Runtime.getRuntime().availableProcessors(),
          Runtime.getRuntime().maxMemory());
    }
  }

  private record Diagnosis(Machine machine, List<Finding> findings) {}

  @Override
  void run(Console console, TerminalProgress progress) {
    List<Finding> findings = Installation.findings();
    Diagnosis diagnosis = new Diagnosis(Machine.found(), findings);
    if (json()) {
      console.json(diagnosis);
      return;
    }
    Machine machine = diagnosis.machine();
    console.printf("halve %s, Java %s", machine.halve(), machine.java());
    console.printf(
        "%s %s, %d processors, heap up to %s",
        machine.os(), machine.arch(), machine.processors(), Numbers.bytes(machine.maxHeapBytes()));
    console.print("");
    for (Finding finding : findings) {
      console.printf(
          "%-5s %-20s %s",
          finding.available() ? "ok" : "none", finding.name(), finding.description());
      if (!finding.advice().isEmpty()) {
        console.printf("%-26s -> %s", "", finding.advice());
      }
    }
  }
}
