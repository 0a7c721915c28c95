package dev.halve.recipe;

import dev.halve.core.Tensor;
import dev.halve.core.sparse.SparsityPattern;
import dev.halve.core.sparsify.BlockShape;
import dev.halve.core.sparsify.WeightNormSparsifier;
import dev.halve.engine.BertForQuestionAnswering;
import dev.halve.engine.Linear;
import dev.halve.report.LayerSparsity;
import java.lang.foreign.Arena;
import java.util.ArrayList;
import java.util.List;

/** Prunes the encoder's linear weights by magnitude: not embeddings, pooler or head. */
public final class Pruning {
  private Pruning() {}

  /**
   * Prepares, steps and squashes: leaves dense weights with zeros and no masks.
   *
   * @return the names of the weights whose shape cannot be pruned so; they are untouched
   */
  public static List<String> prune(BertForQuestionAnswering model, PruningSettings settings) {
    WeightNormSparsifier sparsifier =
        new WeightNormSparsifier(
            settings.sparsityLevel(),
            new BlockShape(settings.blockRows(), settings.blockColumns()),
            settings.zerosPerBlock(),
            settings.norm() == 1 ? WeightNormSparsifier.Norm.L1 : WeightNormSparsifier.Norm.L2);
    List<String> leftDense = sparsifier.prepare(model.bert().linears());
    sparsifier.step();
    sparsifier.squashMask();
    return leftDense.stream().map(name -> name + ".weight").toList();
  }

  /** How sparse every encoder weight is, found by looking. */
  public static List<LayerSparsity> layers(BertForQuestionAnswering model) {
    List<LayerSparsity> layers = new ArrayList<>();
    for (Linear linear : model.bert().linears()) {
      try (Arena arena = Arena.ofConfined()) {
        Tensor weight = linear.weight(arena);
        SparsityPattern pattern = SparsityPattern.of(weight);
        long out = weight.extent(0);
        long in = weight.extent(1);
        long compressed =
            pattern.semiStructured() ? weight.bytes() / 2 + out * Math.ceilDiv(in, 8) : 0;
        layers.add(
            new LayerSparsity(
                linear.name() + ".weight",
                out,
                in,
                pattern.toString(),
                pattern.sparsity(),
                weight.bytes(),
                pattern.semiStructured() ? compressed : weight.bytes()));
      }
    }
    return layers;
  }

  /** The share of zeros in all of them together. */
  static double sparsity(List<LayerSparsity> layers) {
    double zeros = 0;
    double elements = 0;
    for (LayerSparsity layer : layers) {
      zeros += layer.sparsity() * layer.out() * layer.in();
      elements += (double) layer.out() * layer.in();
    }
    return elements == 0 ? 0 : zeros / elements;
  }
}
