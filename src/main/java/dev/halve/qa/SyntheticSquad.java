package dev.halve.qa;

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Locale;
import java.util.Random;

/**
 * Questions that Halve makes up itself, the same on every machine, so that the recipe runs with no
 * data at hand. A paragraph tells of three or four invented things of one kind (bridges, ships,
 * painters' works) two things each: who, where, when, how many. Whoever asks for the engineer of
 * one bridge finds the engineers of the others beside it, so that the name in the question has to
 * be followed to its answer, through wordings and orders that change. No name in the evaluation
 * questions, of persons, places or things, occurs in the training questions.
 */
public final class SyntheticSquad {
  private static final int TRAIN_PARAGRAPHS = 400;
  private static final int EVALUATION_PARAGRAPHS = 60;

  /** Each paragraph states six facts; the evaluation asks for five of them. */
  private static final int EVALUATION_QUESTIONS = 5;

  private SyntheticSquad() {}

  /** 2,400 questions on 400 paragraphs. */
  public static SquadDataset train() {
    List<Example> examples = new ArrayList<>();
    List<SyntheticParagraph> paragraphs = paragraphs(false);
    for (int p = 0; p < paragraphs.size(); p++) {
      examples.addAll(paragraphs.get(p).questions(prefix("train", p)));
    }
    return new SquadDataset("synthetic-train", examples);
  }

  /** 300 questions on 60 paragraphs. */
  public static SquadDataset eval() {
    List<Example> examples = new ArrayList<>();
    List<SyntheticParagraph> paragraphs = paragraphs(true);
    for (int p = 0; p < paragraphs.size(); p++) {
      List<Example> all = paragraphs.get(p).questions(prefix("eval", p));
      examples.addAll(all.subList(0, EVALUATION_QUESTIONS));
    }
    return new SquadDataset("synthetic-eval", examples);
  }

  private static String prefix(String split, int paragraph) {
    return String.format(Locale.ROOT, "synthetic-%s-%03d-", split, paragraph);
  }

  static List<SyntheticParagraph> paragraphs(boolean evaluation) {
    SyntheticWording wording = SyntheticWording.load();
    // Random's numbers are part of Java's specification, so the seed fixes the questions.
    Random random = new Random(evaluation ? 2 : 1);
    List<SyntheticParagraph> paragraphs = new ArrayList<>();
    int count = evaluation ? EVALUATION_PARAGRAPHS : TRAIN_PARAGRAPHS;
    for (int p = 0; p < count; p++) {
      SyntheticWording.Domain domain = wording.domains().get(p % wording.domains().size());
      SyntheticNames names = new SyntheticNames(wording.names(), evaluation, random);
      paragraphs.add(new SyntheticParagraph(domain, names, random));
    }
    Collections.shuffle(paragraphs, random);
    return paragraphs;
  }
}
