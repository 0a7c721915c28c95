package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.core.Tensor;
import dev.halve.core.sparse.HybridTensor;
import dev.halve.core.sparse.SparseSemiStructuredTensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.core.sparsify.BlockShape;
import dev.halve.core.sparsify.HybridRows;
import dev.halve.core.sparsify.InputMoments;
import dev.halve.core.sparsify.RowErrors;
import dev.halve.core.sparsify.SparseGptSparsifier;
import dev.halve.core.sparsify.Sparsifier;
import dev.halve.core.sparsify.TransposableSparsifier;
import dev.halve.core.sparsify.WandaSparsifier;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.BertModel;
import dev.halve.engine.LayerwisePass;
import dev.halve.engine.Linear;
import dev.halve.engine.PackedBatch;
import dev.halve.report.LayerSparsity;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.function.Predicate;

/**
 * Prunes the encoder's linear weights: not embeddings, pooler or head. What is left are dense
 * weights with zeros, and no masks.
 */
public final class Pruning {
  /** Rows that the norms for a permutation come from: they need less text than a mask. */
  private static final int PERMUTATION_BATCHES = 2;

  private Pruning() {}

  /**
   * What a pruning did.
   *
   * @param leftDense names of the layers whose shape cannot be pruned so
   * @param channels the order that the channels were brought into; null where they stayed
   */
  record Outcome(List<String> leftDense, PermutedChannels channels) {}

  /**
   * Prunes as planned. Methods that look at activations go through the encoder once, layer by
   * layer: what a layer is calibrated on comes out of the pruned ones before it.
   *
   * @param calibration may be empty where the method needs none
   * @throws HalveException if no weight fits the pattern, or activations are not finite
   */
  static Outcome prune(
      BertModel model, PruningPlan plan, List<PackedBatch> calibration, Progress progress) {
    Predicate<Linear> pruned = NamePatterns.keptDense(plan.keepDense(), model).negate();
    List<Linear> linears = model.linears().stream().filter(pruned).toList();
    if (linears.isEmpty()) {
      throw new HalveException("every linear layer is kept dense; nothing is left to prune");
    }
    PermutedChannels channels = null;
    if (plan.permute()) {
      try (Arena arena = Arena.ofShared()) {
        Map<String, Tensor> norms =
            plan.method().calibrates()
                ? Calibration.norms(arena, model, first(calibration))
                : Map.of();
        long seed = plan.calibration() == null ? 0 : plan.calibration().seed();
        channels = PermutedChannels.permute(model, norms, seed, progress);
      }
    }
    List<String> leftDense =
        plan.method().calibrates()
            ? calibrated(model, plan, pruned, calibration, progress)
            : squash(plan, uncalibrated(plan), linears, RowErrors.OF_THE_WEIGHT);
    if (leftDense.size() == linears.size()) {
      throw new HalveException(
          "no linear weight of the model fits the pattern; choose one that divides %d inputs"
              .formatted(model.config().hiddenSize()));
    }
    return new Outcome(leftDense, channels);
  }

  private static List<PackedBatch> first(List<PackedBatch> batches) {
    return batches.subList(0, Math.min(PERMUTATION_BATCHES, batches.size()));
  }

  private static Sparsifier uncalibrated(PruningPlan plan) {
    if (plan.method() == PruningMethod.TRANSPOSABLE) {
      return new TransposableSparsifier();
    }
    return byWeightNorm(plan.weightNorm());
  }

  /** Magnitude pruning as the settings say. */
  static Sparsifier byWeightNorm(PruningSettings settings) {
    return new WeightNormSparsifier(
        settings.sparsityLevel(),
        new BlockShape(settings.blockRows(), settings.blockColumns()),
        settings.zerosPerBlock(),
        settings.norm() == 1 ? WeightNormSparsifier.Norm.L1 : WeightNormSparsifier.Norm.L2);
  }

  /** The plan's method for layers with these inputs. */
  static Sparsifier sparsifier(PruningPlan plan, InputMoments inputs) {
    return switch (plan.method()) {
      case MAGNITUDE, TRANSPOSABLE -> uncalibrated(plan);
      case WANDA -> {
        Tensor norms = inputs.norms(Arena.ofAuto());
        yield new WandaSparsifier(plan.pattern(), name -> norms);
      }
      case SPARSEGPT -> new SparseGptSparsifier(plan.pattern(), plan.damping(), name -> inputs);
    };
  }

  /** Prunes the layers that fit; names the others. */
  static List<String> squash(Sparsifier sparsifier, List<Linear> linears) {
    List<String> leftDense = sparsifier.prepare(linears);
    sparsifier.step();
    sparsifier.squashMask();
    return leftDense;
  }

  /** The same, but for the rows that the plan keeps dense. */
  private static List<String> squash(
      PruningPlan plan, Sparsifier sparsifier, List<Linear> linears, RowErrors errors) {
    if (plan.denseRows() == 0) {
      return squash(sparsifier, linears);
    }
    try (Arena arena = Arena.ofShared()) {
      List<Tensor> before = linears.stream().map(linear -> linear.weight(arena)).toList();
      List<String> leftDense = squash(sparsifier, linears);
      for (int i = 0; i < before.size(); i++) {
        linears
            .get(i)
            .setWeight(
                HybridRows.restore(
                    before.get(i), linears.get(i).weight(arena), plan.denseRows(), errors));
      }
      return leftDense;
    }
  }

  private static List<String> calibrated(
      BertModel model,
      PruningPlan plan,
      Predicate<Linear> pruned,
      List<PackedBatch> calibration,
      Progress progress) {
    List<String> leftDense = new ArrayList<>();
    try (LayerwisePass pass = new LayerwisePass(model, calibration)) {
      Stage stage = Stage.begin(progress, "prune by " + plan.method(), pass.stops(), "products");
      long done = 0;
      for (var stop = pass.next(); stop != null; stop = pass.next()) {
        stage.checkStop("nothing is written");
        List<Linear> readers = stop.readers().stream().filter(pruned).toList();
        if (!readers.isEmpty()) {
          leftDense.addAll(calibrated(pass, stop, plan, readers));
        }
        stage.advance(++done, readers.isEmpty() ? "" : readers.getFirst().name());
      }
      stage.end();
    }
    return leftDense;
  }

  private static List<String> calibrated(
      LayerwisePass pass, LayerwisePass.Stop stop, PruningPlan plan, List<Linear> readers) {
    if (plan.method() == PruningMethod.WANDA) {
      try (Arena arena = Arena.ofConfined()) {
        Tensor norms = Calibration.norms(pass, stop).norms(arena);
        Sparsifier wanda = new WandaSparsifier(plan.pattern(), name -> norms);
        return squash(plan, wanda, readers, RowErrors.ofNorms(norms));
      } catch (HalveException unsound) {
        throw unsound.in(readers.getFirst().name());
      }
    }
    try (InputMoments moments = Calibration.moments(pass, stop)) {
      return squash(plan, sparsifier(plan, moments), readers, moments::squaredErrors);
    }
  }

  /** How sparse every encoder weight is, found by looking. */
  public static List<LayerSparsity> layers(BertForQuestionAnswering model) {
    List<LayerSparsity> layers = new ArrayList<>();
    for (Linear linear : model.bert().linears()) {
      try (Arena arena = Arena.ofConfined()) {
        Tensor weight = linear.weight(arena);
        SparsityPattern pattern = SparsityPattern.of(weight);
        boolean hybrid =
            !pattern.semiStructured() && pattern.zeros() > 0 && HybridTensor.fits(weight);
        long compressed =
            pattern.semiStructured()
                ? SparseSemiStructuredTensor.bytes(weight.shape(), weight.dtype())
                : hybrid ? HybridTensor.compress(arena, weight).bytes() : weight.bytes();
        layers.add(
            new LayerSparsity(
                linear.name() + ".weight",
                weight.extent(0),
                weight.extent(1),
                hybrid ? "2:4 and dense rows" : pattern.toString(),
                pattern.sparsity(),
                weight.bytes(),
                compressed));
      }
    }
    return layers;
  }
}
