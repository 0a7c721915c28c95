package dev.halve.core.sparsify;

import dev.halve.core.DType;
import dev.halve.core.HalveException;
import dev.halve.core.Shape;
import dev.halve.core.Tensor;
import java.lang.foreign.Arena;
import java.lang.foreign.MemorySegment;
import java.lang.foreign.ValueLayout;
import java.nio.ByteOrder;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;

/**
 * Magnitude pruning, with the parameters and the meaning of torch.ao.pruning's {@code
 * WeightNormSparsifier}: of all blocks those with the lowest mean norm are chosen, and in each
 * chosen block the smallest elements become zero. {@code (1.0, (1, 4), 2)} is 2:4.
 *
 * <p>Blocks start at the first element; where a weight ends within one, the elements that are there
 * count alone, and the missing ones are kept first. Equal magnitudes are told apart by their place:
 * the one nearest to the beginning of the block stays, and of equal blocks the one nearest to the
 * beginning of the weight. Norms are summed in double precision.
 *
 * <p>An N:M pattern (blocks of one row, not all zero) needs an input of whole blocks; a layer of
 * another shape stays dense and {@link #prepare} names it.
 */
public final class WeightNormSparsifier extends Sparsifier {
  private static final ValueLayout.OfInt LITTLE_ENDIAN_INT =
      ValueLayout.JAVA_INT_UNALIGNED.withOrder(ByteOrder.LITTLE_ENDIAN);

  /** The norm by which blocks are compared. */
  public enum Norm {
    L1,
    L2
  }

  /**
   * What is done to a weight.
   *
   * @param sparsityLevel the share of blocks that are pruned, 0 to 1, rounded to whole blocks
   * @param sparseBlockShape the shape of a block
   * @param zerosPerBlock zeros in each pruned block, 0 to all
   */
  public record Config(
      double sparsityLevel, BlockShape sparseBlockShape, int zerosPerBlock, Norm norm) {
    /** 2:4: in every four neighbours along the input the two largest stay. */
    public static final Config SEMI_STRUCTURED = new Config(1.0, new BlockShape(1, 4), 2, Norm.L2);

    /**
     * @throws HalveException if the level is not 0 to 1, or the zeros are more than a block holds
     */
    public Config {
      if (!(sparsityLevel >= 0 && sparsityLevel <= 1)) {
        throw new HalveException("a sparsity level of " + sparsityLevel + "; expected 0 to 1");
      }
      if (zerosPerBlock < 0 || zerosPerBlock > sparseBlockShape.elements()) {
        throw new HalveException(
            zerosPerBlock
                + " zeros per block of "
                + sparseBlockShape
                + "; expected 0 to "
                + sparseBlockShape.elements());
      }
    }

    /** Whether every weight of this shape can take the pattern. */
    boolean fits(Shape weight) {
      boolean isNOfM = sparseBlockShape.rows() == 1 && zerosPerBlock < sparseBlockShape.elements();
      return weight.rank() == 2 && (!isNOfM || weight.extent(1) % sparseBlockShape.columns() == 0);
    }
  }

  private Config config;
  private Map<String, Config> overrides = Map.of();

  public WeightNormSparsifier(
      double sparsityLevel, BlockShape sparseBlockShape, int zerosPerBlock, Norm norm) {
    this(new Config(sparsityLevel, sparseBlockShape, zerosPerBlock, norm));
  }

  /** As above, by the L2 norm. */
  public WeightNormSparsifier(
      double sparsityLevel, BlockShape sparseBlockShape, int zerosPerBlock) {
    this(sparsityLevel, sparseBlockShape, zerosPerBlock, Norm.L2);
  }

  public WeightNormSparsifier(Config config) {
    this.config = config;
  }

  /**
   * As {@link #prepare(Collection)}, with another configuration for some of the layers.
   *
   * @param config by the layer's name
   * @throws HalveException if a name is no layer's
   */
  public List<String> prepare(
      Collection<? extends Sparsifiable> candidates, Map<String, Config> config) {
    Set<String> unknown = new HashSet<>(config.keySet());
    candidates.forEach(layer -> unknown.remove(layer.name()));
    if (!unknown.isEmpty()) {
      throw new HalveException("no layer is named '" + unknown.iterator().next() + "'");
    }
    overrides = Map.copyOf(config);
    return prepare(candidates);
  }

  /**
   * The share of blocks that the next {@link #step} prunes, but in layers with a configuration of
   * their own; what a {@link SparsitySchedule} moves.
   *
   * @throws HalveException if the level is not 0 to 1
   */
  public void setSparsityLevel(double level) {
    config = new Config(level, config.sparseBlockShape(), config.zerosPerBlock(), config.norm());
  }

  private Config configOf(String layer) {
    return overrides.getOrDefault(layer, config);
  }

  @Override
  protected boolean fits(String layer, Shape weight) {
    return configOf(layer).fits(weight);
  }

  @Override
  protected void update(String layer, Tensor weight, Tensor mask) {
    fill(configOf(layer), weight, mask);
  }

  /**
   * The mask of one weight, U8 {@code [out, in]}, owned by the arena.
   *
   * @param weight a host tensor {@code [out, in]} of a floating type
   * @throws HalveException if the weight holds NaN or infinity, or its shape does not fit the
   *     pattern
   */
  public static Tensor mask(Arena arena, Tensor weight, Config config) {
    if (!config.fits(weight.shape())) {
      throw new HalveException(
          "the weight " + weight + " is not made of blocks " + config.sparseBlockShape());
    }
    weight.requireFinite("the weight");
    Tensor mask = Tensor.allocate(arena, DType.U8, weight.shape().extents());
    fill(config, weight, mask);
    return mask;
  }

  private static void fill(Config config, Tensor weight, Tensor mask) {
    BlockShape block = config.sparseBlockShape();
    boolean everyBlock = config.sparsityLevel() >= 1;
    if (everyBlock && block.equals(new BlockShape(1, 4)) && config.zerosPerBlock() == 2) {
      keepTwoOfFour(weight, mask.segment());
      return;
    }
    mask.segment().fill((byte) 1);
    if (config.sparsityLevel() <= 0 || config.zerosPerBlock() == 0) {
      return;
    }
    Blocks blocks = new Blocks(weight, block);
    boolean[] pruned = everyBlock ? null : blocks.lowest(config.sparsityLevel(), config.norm());
    for (int index = 0; index < blocks.count(); index++) {
      if (everyBlock || pruned[index]) {
        blocks.zeroSmallest(index, config.zerosPerBlock(), mask.segment());
      }
    }
  }

  private static void keepTwoOfFour(Tensor weight, MemorySegment mask) {
    for (long first = 0, n = weight.elements(); first < n; first += 4) {
      float a = Math.abs(weight.getFloat(first));
      float b = Math.abs(weight.getFloat(first + 1));
      float c = Math.abs(weight.getFloat(first + 2));
      float d = Math.abs(weight.getFloat(first + 3));
      // An element stays if at most one beats it; an equal one beats it from the left alone.
      int beatA = (b > a ? 1 : 0) + (c > a ? 1 : 0) + (d > a ? 1 : 0);
      int beatB = (a >= b ? 1 : 0) + (c > b ? 1 : 0) + (d > b ? 1 : 0);
      int beatC = (a >= c ? 1 : 0) + (b >= c ? 1 : 0) + (d > c ? 1 : 0);
      int beatD = (a >= d ? 1 : 0) + (b >= d ? 1 : 0) + (c >= d ? 1 : 0);
      int bytes =
          (beatA <= 1 ? 1 : 0)
              | (beatB <= 1 ? 1 << 8 : 0)
              | (beatC <= 1 ? 1 << 16 : 0)
              | (beatD <= 1 ? 1 << 24 : 0);
      mask.set(LITTLE_ENDIAN_INT, first, bytes);
    }
  }

  /** The blocks of a weight, numbered along the rows of blocks. */
  private static final class Blocks {
    private final Tensor weight;
    private final BlockShape shape;
    private final int across;
    private final int down;
    private final long[] keys;

    Blocks(Tensor weight, BlockShape shape) {
      this.weight = weight;
      this.shape = shape;
      this.across = Math.toIntExact(Math.ceilDiv(weight.extent(1), shape.columns()));
      this.down = Math.toIntExact(Math.ceilDiv(weight.extent(0), shape.rows()));
      this.keys = new long[shape.elements()];
    }

    /** The part of a block that lies within the weight; its places are numbered row by row. */
    private record Block(long first, long stride, int rows, int columns) {
      int elements() {
        return rows * columns;
      }

      long index(int place) {
        return first + place / columns * stride + place % columns;
      }
    }

    private Block block(int number) {
      long row = (long) (number / across) * shape.rows();
      long column = (long) (number % across) * shape.columns();
      long stride = weight.extent(1);
      return new Block(
          row * stride + column,
          stride,
          (int) Math.min(shape.rows(), weight.extent(0) - row),
          (int) Math.min(shape.columns(), stride - column));
    }

    int count() {
      return Math.multiplyExact(across, down);
    }

    private double meanNorm(Block block, WeightNormSparsifier.Norm norm) {
      double sum = 0;
      for (int place = 0; place < block.elements(); place++) {
        double value = weight.getFloat(block.index(place));
        sum += norm == Norm.L1 ? Math.abs(value) : value * value;
      }
      return sum / block.elements();
    }

    /** Which blocks are the given share with the lowest mean norm; at least one is left out. */
    boolean[] lowest(double share, WeightNormSparsifier.Norm norm) {
      double[] norms = new double[count()];
      for (int number = 0; number < norms.length; number++) {
        norms[number] = meanNorm(block(number), norm);
      }
      boolean[] lowest = new boolean[norms.length];
      int left = (int) Math.min(Math.rint(share * norms.length), norms.length - 1);
      if (left <= 0) {
        return lowest;
      }
      double[] sorted = norms.clone();
      Arrays.sort(sorted);
      double threshold = sorted[left - 1];
      for (int number = 0; number < norms.length; number++) {
        if (norms[number] < threshold) {
          lowest[number] = true;
          left--;
        }
      }
      for (int number = norms.length - 1; left > 0; number--) {
        if (norms[number] == threshold) {
          lowest[number] = true;
          left--;
        }
      }
      return lowest;
    }

    void zeroSmallest(int number, int zeros, MemorySegment mask) {
      Block block = block(number);
      int elements = block.elements();
      for (int place = 0; place < elements; place++) {
        // Magnitudes order as their bits do; the place, from the end, tells equal ones apart.
        long magnitude = Float.floatToRawIntBits(Math.abs(weight.getFloat(block.index(place))));
        keys[place] = magnitude << 32 | (elements - 1 - place);
      }
      Arrays.sort(keys, 0, elements);
      for (int i = 0; i < Math.min(zeros, elements); i++) {
        int place = elements - 1 - (int) keys[i];
        mask.set(ValueLayout.JAVA_BYTE, block.index(place), (byte) 0);
      }
    }
  }
}
