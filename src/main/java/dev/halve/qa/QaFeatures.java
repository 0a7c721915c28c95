package dev.halve.qa;

import dev.halve.core.HalveException;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/**
 * The rows of tokens for a list of questions, those of a question next to each other and in the
 * order of its context. They are what Hugging Face's fast tokenizers give for pairs with {@code
 * truncation="only_second"}, {@code max_length}, {@code stride} and {@code
 * return_overflowing_tokens}, and its question-answering examples make of them.
 */
public record QaFeatures(List<Example> examples, List<QaFeature> features) {
  public QaFeatures {
    examples = List.copyOf(examples);
    features = List.copyOf(features);
  }

  /**
   * Rows for training and for prediction alike. A context that does not fit into one row is cut
   * into windows; the question never is.
   *
   * @param maxLength tokens a row at the most, special tokens included
   * @param docStride how many tokens a window repeats of the one before it
   * @throws HalveException naming the question that leaves no room for its context, or room for no
   *     more than the repeated tokens
   */
  public static QaFeatures of(
      Tokenizer tokenizer, List<Example> examples, int maxLength, int docStride) {
    if (docStride < 0) {
      throw new HalveException("doc_stride is " + docStride + "; it must be 0 or more");
    }
    List<Tokens> questions =
        tokenizer.encodeAll(examples.stream().map(example -> example.question().strip()).toList());
    // Some twenty questions share a context; each context is tokenized once.
    Map<String, Integer> contextIndex = new HashMap<>();
    List<String> contexts = new ArrayList<>();
    for (Example example : examples) {
      if (contextIndex.putIfAbsent(example.context(), contexts.size()) == null) {
        contexts.add(example.context());
      }
    }
    List<Tokens> contextTokens = tokenizer.encodeAll(contexts);
    List<QaFeature> features = new ArrayList<>();
    for (int i = 0; i < examples.size(); i++) {
      Example example = examples.get(i);
      Tokens context = contextTokens.get(contextIndex.get(example.context()));
      Pair pair = new Pair(tokenizer.pair(), i, example, questions.get(i), context);
      features.addAll(pair.windows(maxLength, docStride));
    }
    return new QaFeatures(examples, features);
  }

  /**
   * A question and its context.
   *
   * @param index the question's place among the examples
   */
  private record Pair(
      PairTemplate template, int index, Example example, Tokens question, Tokens context) {
    List<QaFeature> windows(int maxLength, int docStride) {
      int room = maxLength - template.count() - question.count();
      if (room < Math.min(context.count(), 1)) {
        throw new HalveException(
            "question %s has %,d tokens, which leaves no room for its context in rows of %,d; raise max_length or shorten it"
                .formatted(Quoted.of(example.id()), question.count(), maxLength));
      }
      if (context.count() > room && docStride >= room) {
        throw new HalveException(
            "question %s leaves %,d tokens of a row to its context, and doc_stride repeats %,d of them; lower doc_stride"
                .formatted(Quoted.of(example.id()), room, docStride));
      }
      List<QaFeature> windows = new ArrayList<>();
      int from = 0;
      int to;
      do {
        to = Math.min(from + room, context.count());
        windows.add(window(from, to));
        from = to - docStride;
      } while (to < context.count());
      return windows;
    }

    private QaFeature window(int from, int to) {
      int contextFrom = template.before().length + question.count() + template.between().length;
      int[] ids = new int[contextFrom + to - from + template.after().length];
      int next = append(ids, 0, template.before(), 0, template.before().length);
      next = append(ids, next, question.ids(), 0, question.count());
      next = append(ids, next, template.between(), 0, template.between().length);
      next = append(ids, next, context.ids(), from, to);
      append(ids, next, template.after(), 0, template.after().length);
      int start = 0;
      int end = 0;
      if (to > from && !example.answers().isEmpty()) {
        Answer answer = example.answers().getFirst();
        if (context.starts()[from] <= answer.start() && context.ends()[to - 1] >= answer.end()) {
          start = contextFrom + lastAtMost(context.starts(), from, to, answer.start()) - from;
          end = contextFrom + firstAtLeast(context.ends(), from, to, answer.end()) - from;
        }
      }
      return new QaFeature(
          index, ids, contextFrom, context, from, to - from, template.secondType(), start, end);
    }
  }

  private static int append(int[] ids, int at, int[] source, int from, int to) {
    System.arraycopy(source, from, ids, at, to - from);
    return at + to - from;
  }

  /** The last index in {@code [from, to)} whose value is at most the limit; the first's is. */
  private static int lastAtMost(int[] ascending, int from, int to, int limit) {
    while (to - from > 1) {
      int middle = (from + to) >>> 1;
      if (ascending[middle] <= limit) {
        from = middle;
      } else {
        to = middle;
      }
    }
    return from;
  }

  /** The first index in {@code [from, to)} whose value is at least the limit; the last's is. */
  private static int firstAtLeast(int[] ascending, int from, int to, int limit) {
    int last = to - 1;
    while (from < last) {
      int middle = (from + last) >>> 1;
      if (ascending[middle] >= limit) {
        last = middle;
      } else {
        from = middle + 1;
      }
    }
    return from;
  }
}
