package dev.halve.qa;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Random;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** A made-up paragraph of six facts about three or four things of one kind. */
final class SyntheticParagraph {
  private static final List<String> CONTRASTS = List.of(", while ", ", whereas ", ", and ", "; ");
  private static final Pattern SLOT = Pattern.compile("\\{([sv])}");
  private static final Pattern NAME_KIND = Pattern.compile("\\{(\\w+)}");

  private final SyntheticWording.Domain domain;
  private final Random random;
  private final List<Fact> facts = new ArrayList<>();
  private final StringBuilder text = new StringBuilder();
  private int sentenceStart;

  /** A thing, and where the paragraph last named it. */
  static final class Thing {
    final String name;
    final String article;
    final String pronoun;
    int nameStart;

    Thing(String name, String article, String pronoun) {
      this.name = name;
      this.article = article;
      this.pronoun = pronoun;
    }

    String mention() {
      return article.isEmpty() ? name : article + " " + name;
    }
  }

  /** One thing said of one thing, and where the paragraph says it. */
  static final class Fact {
    final Thing thing;
    final SyntheticWording.Attribute attribute;
    final String value;
    int valueStart;
    int nameStart;

    Fact(Thing thing, SyntheticWording.Attribute attribute, String value) {
      this.thing = thing;
      this.attribute = attribute;
      this.value = value;
    }
  }

  SyntheticParagraph(SyntheticWording.Domain domain, SyntheticNames names, Random random) {
    this.domain = domain;
    this.random = random;
    List<SyntheticWording.Attribute> attributes = new ArrayList<>(domain.attributes());
    Collections.shuffle(attributes, random);
    List<Thing> things = new ArrayList<>();
    int count = random.nextInt(10) < 7 ? 3 : 4;
    for (int i = 0; i < count; i++) {
      things.add(thing(names));
    }
    for (int i = 0; i < 6; i++) {
      // With three things both attributes of each; with four the second of only two.
      SyntheticWording.Attribute attribute = attributes.get(i < count ? 0 : 1);
      facts.add(new Fact(things.get(i % count), attribute, names.value(attribute)));
    }
    if (random.nextInt(3) == 0) {
      text.append(any(domain.openings())).append(' ');
      sentenceStart = text.length();
    }
    if (random.nextBoolean()) {
      tellByThing(things);
    } else {
      tellByAttribute(count);
    }
    text.setLength(text.length() - 1);
  }

  String text() {
    return text.toString();
  }

  List<Fact> facts() {
    return facts;
  }

  /** One question for each fact, in random order; a quarter ask for the thing. */
  List<Example> questions(String idPrefix) {
    String context = text();
    List<Example> questions = new ArrayList<>();
    for (Fact fact : facts) {
      boolean reversed = random.nextInt(4) == 0;
      String question =
          any(reversed ? fact.attribute.reversals() : fact.attribute.questions())
              .replace("{s}", fact.thing.mention())
              .replace("{v}", fact.value);
      Answer answer =
          reversed
              ? new Answer(fact.thing.name, fact.nameStart)
              : new Answer(fact.value, fact.valueStart);
      questions.add(new Example("", question, context, List.of(answer)));
    }
    Collections.shuffle(questions, random);
    for (int i = 0; i < questions.size(); i++) {
      Example example = questions.get(i);
      questions.set(i, new Example(idPrefix + i, example.question(), context, example.answers()));
    }
    return questions;
  }

  private Thing thing(SyntheticNames names) {
    Matcher kind = NAME_KIND.matcher(domain.name());
    String name = kind.replaceAll(found -> names.name(found.group(1)));
    String pronoun = domain.pronoun().equals("person") ? random.nextBoolean() ? "She" : "He" : "It";
    return new Thing(name, domain.article(), pronoun);
  }

  private void tellByThing(List<Thing> things) {
    List<Thing> order = new ArrayList<>(things);
    Collections.shuffle(order, random);
    for (Thing thing : order) {
      List<Fact> own = new ArrayList<>(facts.stream().filter(fact -> fact.thing == thing).toList());
      Collections.shuffle(own, random);
      if (own.size() == 1) {
        sentence(own.getFirst());
      } else if (random.nextBoolean()) {
        name(own.get(0));
        text.append(", ");
        fill(any(own.get(0).attribute.appositives()), own.get(0));
        text.append(", ");
        fill(any(own.get(1).attribute.predicates()), own.get(1));
        endSentence();
      } else {
        sentence(own.get(0));
        text.append(thing.pronoun).append(' ');
        fill(any(own.get(1).attribute.predicates()), own.get(1));
        endSentence();
      }
    }
  }

  private void tellByAttribute(int things) {
    List<List<Fact>> groups =
        new ArrayList<>(
            List.of(
                new ArrayList<>(facts.subList(0, things)),
                new ArrayList<>(facts.subList(things, facts.size()))));
    Collections.shuffle(groups, random);
    for (List<Fact> group : groups) {
      Collections.shuffle(group, random);
      int first = random.nextInt(group.size() - 1);
      for (int i = 0; i < group.size(); i++) {
        if (i == first) {
          predicate(group.get(i++));
          text.append(any(CONTRASTS));
          predicate(group.get(i));
          endSentence();
        } else {
          sentence(group.get(i));
        }
      }
    }
  }

  private void sentence(Fact fact) {
    if (random.nextInt(3) == 0) {
      fill(any(fact.attribute.fronted()), fact);
    } else {
      predicate(fact);
    }
    endSentence();
  }

  private void predicate(Fact fact) {
    name(fact);
    text.append(' ');
    fill(any(fact.attribute.predicates()), fact);
  }

  private void name(Fact fact) {
    text.append(fact.thing.mention());
    fact.thing.nameStart = text.length() - fact.thing.name.length();
  }

  private void fill(String template, Fact fact) {
    int from = 0;
    Matcher slot = SLOT.matcher(template);
    while (slot.find()) {
      text.append(template, from, slot.start());
      if (slot.group(1).equals("s")) {
        name(fact);
      } else {
        fact.valueStart = text.length();
        text.append(fact.value);
      }
      from = slot.end();
    }
    text.append(template, from, template.length());
    fact.nameStart = fact.thing.nameStart;
  }

  private void endSentence() {
    char first = text.charAt(sentenceStart);
    text.setCharAt(sentenceStart, Character.toUpperCase(first));
    text.append(". ");
    sentenceStart = text.length();
  }

  private String any(List<String> list) {
    return list.get(random.nextInt(list.size()));
  }
}
