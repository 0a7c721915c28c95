package dev.halve;

import static org.assertj.core.api.Assertions.assertThat;

import org.junit.jupiter.api.Test;
import org.openjdk.jmh.runner.Runner;
import org.openjdk.jmh.runner.options.CommandLineOptions;

/**
 * Runs JMH with the build's class path and the JVM flags of Halve: {@code mvn test
 * -Dtest=Benchmarks -Dbenchmark="EncoderBenchmark -prof gc"}. No part of a plain build, by its
 * name.
 */
class Benchmarks {
  @Test
  void run() throws Exception {
    String arguments = System.getProperty("benchmark", "-l");
    CommandLineOptions options = new CommandLineOptions(arguments.split(" +"));
    if (options.shouldList()) {
      new Runner(options).list();
    } else {
      assertThat(new Runner(options).run()).as("results of " + arguments).isNotEmpty();
    }
  }
}
