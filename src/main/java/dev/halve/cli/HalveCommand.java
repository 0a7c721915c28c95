package dev.halve.cli;

import java.lang.reflect.Field;
import java.util.List;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Model.OptionSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParentCommand;
import picocli.CommandLine.Spec;

/** What every command has: the console, its progress, and an answer that a program can read. */
@Command(
    sortOptions = false,
    sortSynopsis = false,
    abbreviateSynopsis = true,
    descriptionHeading = "%n",
    synopsisHeading = "%nUsage: ",
    optionListHeading = "%nOptions:%n",
    parameterListHeading = "%nArguments:%n",
    footerHeading = "%nExamples:%n")
abstract class HalveCommand implements Callable<Integer> {
  @ParentCommand private Main main;

  @Spec private CommandSpec spec;

  @Option(names = "--json", order = 1000, description = "Print the answer as one JSON object.")
  private boolean json;

  /** Does the work, and prints the answer. */
  abstract void run(Console console, TerminalProgress progress);

  @Override
  public final Integer call() {
    TerminalProgress progress = new TerminalProgress(main.console(), main.interruption());
    try {
      run(main.console(), progress);
    } finally {
      progress.hide();
    }
    return 0;
  }

  /** A command line that does not fit together, as picocli tells of others. */
  ParameterException misused(String complaint) {
    return new ParameterException(spec.commandLine(), complaint);
  }

  /** Refuses what was given of some classes of options, which need another that was not. */
  void refuse(String unless, Class<?>... options) {
    List<Class<?>> unused = List.of(options);
    for (OptionSpec option : spec.commandLine().getParseResult().matchedOptions()) {
      if (option.userObject() instanceof Field field
          && unused.contains(field.getDeclaringClass())) {
        throw misused(option.longestName() + " does nothing without " + unless);
      }
    }
  }

  boolean json() {
    return json;
  }

  /** Says that this run can be interrupted and gone on with by the same command line. */
  void resumable() {
    StringBuilder command = new StringBuilder("./halve");
    for (String argument : spec.root().commandLine().getParseResult().originalArgs()) {
      if (!argument.equals("--resume")) {
        command.append(' ').append(quoted(argument));
      }
    }
    main.interruption().resumable(command.append(" --resume").toString());
  }

  /** An argument as a shell takes it. */
  private static String quoted(String argument) {
    return argument.matches("[\\w./:,=@%+-]+")
        ? argument
        : "'" + argument.replace("'", "'\\''") + "'";
  }
}
