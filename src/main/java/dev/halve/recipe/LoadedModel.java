package dev.halve.recipe;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Device;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.engine.PretrainedModel;
import dev.halve.qa.Tokenizer;
import java.lang.foreign.Arena;
import java.lang.foreign.ValueLayout;
import java.util.List;
import java.util.function.Consumer;

/** A model on a device, with its tokenizer and what it came from. */
record LoadedModel(PretrainedModel origin, Tokenizer tokenizer, BertForQuestionAnswering model)
    implements AutoCloseable {
  /**
   * @param seed of a head that the model lacks
   */
  static LoadedModel open(String nameOrFolder, Device device, long seed, Progress progress) {
    return open(nameOrFolder, device, seed, progress, true);
  }

  /** A model of which the encoder alone matters: a folder may have another head, or none. */
  static LoadedModel ofEncoder(String nameOrFolder, Device device, Progress progress) {
    return open(nameOrFolder, device, 0, progress, false);
  }

  private static LoadedModel open(
      String nameOrFolder, Device device, long seed, Progress progress, boolean asksQuestions) {
    PretrainedModel origin = StoredModel.open(nameOrFolder, progress);
    Tokenizer tokenizer = null;
    try {
      tokenizer = tokenizer(origin);
      Consumer<String> notes =
          asksQuestions || origin.folder().isEmpty() ? progress::note : note -> {};
      return new LoadedModel(origin, tokenizer, origin.questionAnswering(device, seed, notes));
    } catch (RuntimeException failure) {
      if (tokenizer != null) {
        tokenizer.close();
      }
      origin.close();
      throw failure;
    }
  }

  /**
   * The model's own tokenizer, as the model takes its tokens.
   *
   * @throws HalveException if there is none, or it belongs to another model
   */
  static Tokenizer tokenizer(PretrainedModel origin) {
    byte[] json = origin.tokenizerFiles().get("tokenizer.json");
    Tokenizer tokenizer =
        json == null
            ? Tokenizer.load(origin.folder().orElseThrow())
            : Tokenizer.ofJson(
                origin
                    .folder()
                    .map(folder -> folder.resolve("tokenizer.json").toString())
                    .orElse(origin.name() + "'s tokenizer.json"),
                json);
    try {
      tokenizer.requireFit(origin.config().vocabSize(), "the model " + origin.name());
    } catch (HalveException misfit) {
      tokenizer.close();
      throw misfit;
    }
    if (origin.config().typeVocabSize() == 1) {
      tokenizer.useOneType();
    }
    return tokenizer;
  }

  /** The rows that a plan calibrates on; none where it needs none. */
  List<PackedBatch> calibration(PruningPlan plan) {
    return plan.needsText()
        ? Calibration.batches(tokenizer, model.bert(), plan.calibration())
        : List.of();
  }

  /**
   * Readies every encoder weight for training: a compressed one becomes dense, and where masks are
   * fixed and a weight is pruned one holds its zeros. The mask of a 2:4 weight keeps two of every
   * four, even where one of them is zero.
   */
  void mask(MaskSettings masks) {
    if (masks.growth() != null) {
      // The trainer makes them before its first step.
      model.bert().linears().forEach(Linear::toDense);
    } else if (masks.chosen()) {
      maskByMagnitude(masks.straightThrough());
    } else {
      maskZeros();
    }
  }

  private void maskZeros() {
    for (Linear linear : model.bert().linears()) {
      linear.toDense();
      try (Arena arena = Arena.ofConfined()) {
        Tensor weight = linear.weight(arena);
        SparsityPattern pattern = SparsityPattern.of(weight);
        // A few rows that are 2:4 among dense ones do not show in the share of zeros.
        if (pattern.kind() != SparsityPattern.Kind.DENSE
            || pattern.zeros() > 0 && HybridTensor.fits(weight)) {
          boolean twoOfFour = pattern.kept() == 2 && pattern.group() == 4;
          linear.setMask(twoOfFour ? keptPlaces(arena, weight) : nonzeros(arena, weight));
        }
      }
    }
  }

  /** Where masks are chosen in training: 2:4 by magnitude, the weights as they are. */
  private void maskByMagnitude(boolean straightThrough) {
    for (Linear linear : model.bert().linears()) {
      if (linear.in() % 4 != 0) {
        throw new HalveException(
            "%s.weight: %s cannot be 2:4; only masks that are fixed from the start leave it dense"
                .formatted(linear.name(), linear.weight().shape()));
      }
      linear.toDense();
      try (Arena arena = Arena.ofConfined()) {
        linear.setMask(Tensor.allocate(arena, DType.U8, linear.weight().shape().extents()));
      }
      linear.chooseMask();
      if (straightThrough) {
        linear.trainStraightThrough();
      }
    }
  }

  private static Tensor keptPlaces(Arena arena, Tensor weight) {
    SparseSemiStructuredTensor compressed = SparseSemiStructuredTensor.compress(arena, weight);
    for (long i = 0; i < compressed.values().elements(); i++) {
      compressed.values().setFloat(i, 1);
    }
    return nonzeros(arena, compressed.decompress(arena));
  }

  private static Tensor nonzeros(Arena arena, Tensor weight) {
    Tensor mask = Tensor.allocate(arena, DType.U8, weight.shape().extents());
    for (long i = 0; i < weight.elements(); i++) {
      byte keeps = (byte) (weight.getFloat(i) != 0 ? 1 : 0);
      mask.segment().set(ValueLayout.JAVA_BYTE, i, keeps);
    }
    return mask;
  }

  @Override
  public void close() {
    model.close();
    tokenizer.close();
    origin.close();
  }
}
