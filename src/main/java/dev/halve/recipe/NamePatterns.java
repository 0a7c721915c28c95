package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.engine.BertModel;
import dev.halve.engine.Linear;
import java.util.List;
import java.util.function.Predicate;
import java.util.regex.Pattern;

/** Names of layers as a shell would match them. */
final class NamePatterns {
  private NamePatterns() {}

  /**
   * The layers that are kept dense.
   *
   * @param names with {@code *} for any characters and {@code ?} for one; {@code .weight} at the
   *     end may be there
   * @throws HalveException if a name matches none of the model's layers
   */
  static Predicate<Linear> keptDense(List<String> names, BertModel model) {
    Predicate<Linear> kept = linear -> false;
    for (String name : names) {
      Pattern pattern = glob(name);
      Predicate<Linear> matches =
          linear ->
              pattern.matcher(linear.name()).matches()
                  || pattern.matcher(linear.name() + ".weight").matches();
      if (model.linears().stream().noneMatch(matches)) {
        throw new HalveException(
            "'%s' names no linear layer of the encoder; they are called like %s"
                .formatted(name, model.linears().getFirst().name()));
      }
      kept = kept.or(matches);
    }
    return kept;
  }

  private static Pattern glob(String name) {
    StringBuilder regex = new StringBuilder();
    for (int i = 0; i < name.length(); i++) {
      char c = name.charAt(i);
      switch (c) {
        case '*' -> regex.append(".*");
        case '?' -> regex.append('.');
        default -> regex.append(Pattern.quote(String.valueOf(c)));
      }
    }
    return Pattern.compile(regex.toString());
  }
}
