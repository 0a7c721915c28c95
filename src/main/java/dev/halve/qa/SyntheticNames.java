package dev.halve.qa;

import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Deque;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.function.Supplier;

/**
 * Names, dates and numbers for one paragraph, none twice and no two names with a part in common. Of
 * every list of name parts the evaluation has each fifth, the training the rest; only endings are
 * shared.
 */
final class SyntheticNames {
  private static final int EVALUATION_SHARE = 5;
  private static final List<String> MONTHS =
      List.of(
          "January",
          "February",
          "March",
          "April",
          "May",
          "June",
          "July",
          "August",
          "September",
          "October",
          "November",
          "December");

  private final SyntheticWording.Names parts;
  private final boolean evaluation;
  private final Random random;
  private final Map<List<String>, Deque<String>> shuffled = new HashMap<>();
  private final Set<String> used = new HashSet<>();

  SyntheticNames(SyntheticWording.Names parts, boolean evaluation, Random random) {
    this.parts = parts;
    this.evaluation = evaluation;
    this.random = random;
  }

  /** A new name of a kind: person, surname, place, ship, title. */
  String name(String kind) {
    return switch (kind) {
      case "person" -> next(parts.givenNames()) + " " + name("surname");
      case "surname" -> next(parts.surnameStems()) + any(parts.surnameEndings());
      case "place" -> next(parts.placeStems()) + any(parts.placeEndings());
      case "ship" -> next(parts.shipAdjectives()) + " " + next(parts.shipNouns());
      case "title" -> next(parts.titleAdjectives()) + " " + next(parts.titleNouns());
      default -> throw new IllegalArgumentException(kind);
    };
  }

  /** A new value for an attribute. */
  String value(SyntheticWording.Attribute attribute) {
    return switch (attribute.kind()) {
      case "person", "place" -> name(attribute.kind());
      case "subject" -> next(parts.subjects());
      case "product" -> next(parts.products());
      case "year" -> unused(() -> Integer.toString(1781 + random.nextInt(210)));
      case "date" -> unused(() -> (1 + random.nextInt(28)) + " " + any(MONTHS));
      case "quantity" -> unused(() -> quantity(attribute));
      default -> throw new IllegalArgumentException(attribute.kind());
    };
  }

  private String quantity(SyntheticWording.Attribute attribute) {
    int count = attribute.least() + random.nextInt(attribute.most() - attribute.least() + 1);
    int number = count * Math.max(attribute.scale(), 1);
    String digits =
        number < 1000
            ? "" + number
            : number / 1000 + String.format(Locale.ROOT, ",%03d", number % 1000);
    return digits + " " + attribute.unit();
  }

  private String unused(Supplier<String> values) {
    String value = values.get();
    while (!used.add(value)) {
      value = values.get();
    }
    return value;
  }

  private String any(List<String> list) {
    return list.get(random.nextInt(list.size()));
  }

  /** The next of this split's share of a list, in random order. */
  private String next(List<String> list) {
    return shuffled
        .computeIfAbsent(
            list,
            all -> {
              List<String> share = new ArrayList<>();
              for (int i = 0; i < all.size(); i++) {
                if ((i % EVALUATION_SHARE == EVALUATION_SHARE - 1) == evaluation) {
                  share.add(all.get(i));
                }
              }
              Collections.shuffle(share, random);
              return new ArrayDeque<>(share);
            })
        .removeFirst();
  }
}
