package dev.halve.cli;

import dev.halve.core.HalveException;
import dev.halve.recipe.MaskSettings;
import dev.halve.recipe.PruningMethod;
import dev.halve.recipe.StoppedException;
import dev.halve.recipe.TrainingSettings;
import java.util.List;
import java.util.Locale;
import java.util.concurrent.Callable;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Help.Ansi;
import picocli.CommandLine.IVersionProvider;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ScopeType;
import picocli.CommandLine.Spec;
import picocli.CommandLine.TypeConversionException;
import picocli.CommandLine.UnmatchedArgumentException;

/** Entry point of the {@code halve} command. */
@Command(
    name = "halve",
    description = {
      "2:4 semi-structured sparsity for BERT-family encoders: fine-tune, prune, retrain, compress,"
          + " run and measure, on a CPU and on an NVIDIA GPU.",
      ""
    },
    synopsisSubcommandLabel = "COMMAND",
    commandListHeading = "%nCommands:%n",
    footer = {
      "",
      "Start with:",
      "  ./halve tutorial              the whole recipe on a real model",
      "  ./halve quickstart            one linear layer, dense against 2:4",
      "  ./halve COMMAND --help        options and examples of a command"
    },
    versionProvider = Main.Version.class,
    subcommands = {
      TutorialCommand.class,
      TrainCommand.class,
      PruneCommand.class,
      EvalCommand.class,
      ConvertCommand.class,
      PredictCommand.class,
      ScoreCommand.class,
      QuickstartCommand.class,
      BenchCommand.class,
      InspectCommand.class,
      DoctorCommand.class
    })
public final class Main implements Callable<Integer> {
  /** Something that Halve did not foresee. */
  private static final int UNEXPECTED = 1;

  /** Bad input, which its message explains. */
  private static final int BAD_INPUT = 2;

  /** What a shell reports of a program that Ctrl-C ended. */
  private static final int INTERRUPTED = 130;

  /** Columns of a help page. */
  private static final int WIDTH = 100;

  private final Console console;
  private final Interruption interruption;

  @Spec private CommandSpec spec;

  @Option(
      names = "--verbose",
      scope = ScopeType.INHERIT,
      description = "Print the stack trace of an error.")
  private boolean verbose;

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      scope = ScopeType.INHERIT,
      description = "Print this help.")
  @SuppressWarnings("unused") // picocli acts on it
  private boolean help;

  @Option(names = "--version", versionHelp = true, description = "Print the version.")
  @SuppressWarnings("unused") // picocli acts on it
  private boolean version;

  Main(Console console, Interruption interruption) {
    this.console = console;
    this.interruption = interruption;
  }

  public static void main(String[] args) {
    // What is said is English, and so are its numbers.
    Locale.setDefault(Locale.ROOT);
    Console console = Console.ofProcess();
    Interruption interruption = Interruption.ofProcess(console);
    int exitCode = run(args, console, interruption);
    String unwritten = console.unwritten();
    if (unwritten != null && exitCode == 0) {
      console.error("halve: cannot write the answer to standard output: " + unwritten);
      exitCode = BAD_INPUT;
    }
    System.exit(interruption.ended(exitCode));
  }

  /** Runs one command line and returns its exit code. */
  static int run(String[] args, Console console, Interruption interruption) {
    CommandLine commandLine = commandLine(console, interruption);
    try {
      return commandLine.execute(args);
    } catch (Error fatal) {
      return commandLine.<Main>getCommand().failed(fatal);
    }
  }

  static CommandLine commandLine(Console console, Interruption interruption) {
    Main main = new Main(console, interruption);
    CommandLine commandLine = new CommandLine(main);
    choice(commandLine, PruningMethod.class);
    choice(commandLine, TrainingSettings.Schedule.class);
    choice(commandLine, MaskSettings.Growth.class);
    return commandLine
        .setOut(console.outWriter())
        .setErr(console.errWriter())
        .setColorScheme(CommandLine.Help.defaultColorScheme(Ansi.OFF))
        .setUsageHelpWidth(WIDTH)
        .setParameterExceptionHandler((exception, arguments) -> main.misused(exception))
        .setExecutionExceptionHandler((exception, command, result) -> main.failed(exception));
  }

  /** Takes the names of constants as the help spells them. */
  private static <E extends Enum<E>> void choice(CommandLine commandLine, Class<E> type) {
    commandLine.registerConverter(
        type,
        text ->
            Stream.of(type.getEnumConstants())
                .filter(each -> each.name().equalsIgnoreCase(text))
                .findFirst()
                .orElseThrow(() ->
                    new TypeConversionException(
                        "expected one of %s, found '%s'"
                            .formatted(
                                Stream.of(type.getEnumConstants())
                                    .map(each -> each.name().toLowerCase(Locale.ROOT))
                                    .collect(Collectors.joining(", ")),
                                text))));
  }

  @Override
  public Integer call() {
    spec.commandLine().usage(console.err());
    return BAD_INPUT;
  }

  Console console() {
    return console;
  }

  Interruption interruption() {
    return interruption;
  }

  private int misused(ParameterException exception) {
    String name = exception.getCommandLine().getCommandSpec().qualifiedName();
    String message =
        exception instanceof UnmatchedArgumentException unmatched
            ? unknown(unmatched)
            : firstLine(exception);
    console.error("%s: %s; see ./%s --help".formatted(name, message, name));
    trace(exception);
    return BAD_INPUT;
  }

  /** {@code unknown option '--tenser', did you mean --tensor?}. */
  private static String unknown(UnmatchedArgumentException unmatched) {
    String argument = unmatched.getUnmatched().getFirst();
    boolean command = unmatched.getCommandLine().getParent() == null;
    String kind = argument.startsWith("-") ? "option" : command ? "command" : "argument";
    List<String> suggestions = unmatched.getSuggestions();
    return "unknown %s '%s'".formatted(kind, argument)
        + (suggestions.isEmpty() ? "" : " (did you mean %s?)".formatted(suggestions.getFirst()));
  }

  private int failed(Throwable exception) {
    trace(exception);
    return switch (exception) {
      case HalveException bad -> {
        console.error("halve: " + bad.getMessage());
        yield BAD_INPUT;
      }
      case StoppedException stopped -> {
        console.error("halve: " + interruption.advice());
        yield INTERRUPTED;
      }
      case OutOfMemoryError full -> {
        console.error(
            "halve: out of memory (%s); take a smaller model, batch or calibration text, or give Java more with JDK_JAVA_OPTIONS=-Xmx8g"
                .formatted(full.getMessage()));
        yield UNEXPECTED;
      }
      default -> {
        console.error(
            "halve: unexpected %s; run again with --verbose for the whole trace, and report it"
                .formatted(describe(exception)));
        yield UNEXPECTED;
      }
    };
  }

  private void trace(Throwable exception) {
    if (verbose) {
      exception.printStackTrace(console.err());
    }
  }

  private static String describe(Throwable exception) {
    String name = exception.getClass().getSimpleName();
    return exception.getMessage() == null ? name : name + ": " + firstLine(exception);
  }

  private static String firstLine(Throwable exception) {
    return exception.getMessage().lines().findFirst().orElse("");
  }

  /** The version in the jar's manifest. */
  static final class Version implements IVersionProvider {
    static String ofHalve() {
      String version = Main.class.getPackage().getImplementationVersion();
      return version == null ? "development" : version;
    }

    @Override
    public String[] getVersion() {
      return new String[] {"halve %s, Java %s".formatted(ofHalve(), Runtime.version())};
    }
  }
}
