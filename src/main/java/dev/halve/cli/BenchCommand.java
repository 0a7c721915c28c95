package dev.halve.cli;

import picocli.CommandLine.Command;

@Command(name = "bench")
final class BenchCommand extends HalveCommand {
  @Override
  void run(Console console, TerminalProgress progress) {}
}
