package dev.halve.qa;

import dev.halve.core.HalveException;
import dev.halve.core.io.Json;
import java.io.IOException;
import java.io.InputStream;
import java.util.List;

/**
 * The words that made-up paragraphs and questions are put together from. In the templates {@code
 * {s}} stands for the name of a thing, {@code {v}} for what is said of it.
 *
 * @param domains the kinds of things that paragraphs are about
 */
record SyntheticWording(Names names, List<Domain> domains) {
  private static final String RESOURCE = "synthetic-squad.json";

  /** Parts of names, and nouns. */
  record Names(
      List<String> givenNames,
      List<String> surnameStems,
      List<String> surnameEndings,
      List<String> placeStems,
      List<String> placeEndings,
      List<String> shipAdjectives,
      List<String> shipNouns,
      List<String> titleAdjectives,
      List<String> titleNouns,
      List<String> subjects,
      List<String> products) {}

  /**
   * A kind of things.
   *
   * @param name with the kind of name in braces: {@code {place} Bridge}
   * @param article {@code the} or nothing
   * @param pronoun {@code it}, or {@code person} for she or he
   * @param openings first sentences that say nothing anybody asks for
   */
  record Domain(
      String name,
      String article,
      String pronoun,
      List<String> openings,
      List<Attribute> attributes) {}

  /**
   * What can be said of the things of a kind.
   *
   * @param kind of the answer: person, place, year, date, quantity, subject, product
   * @param predicates what follows the name in a sentence
   * @param appositives what follows the name between commas
   * @param fronted whole sentences that do not begin with the name
   * @param questions for the value, given the name
   * @param reversals questions for the name, given the value
   * @param unit of quantities
   * @param least of quantities, in multiples of {@code scale}
   * @param most likewise
   * @param scale 0 is 1
   */
  record Attribute(
      String kind,
      List<String> predicates,
      List<String> appositives,
      List<String> fronted,
      List<String> questions,
      List<String> reversals,
      String unit,
      int least,
      int most,
      int scale) {}

  static SyntheticWording load() {
    try (InputStream stream = SyntheticWording.class.getResourceAsStream(RESOURCE)) {
      return Json.MAPPER.readValue(stream, SyntheticWording.class);
    } catch (IOException e) {
      throw new HalveException("cannot read " + RESOURCE + ": " + e.getMessage(), e);
    }
  }
}
