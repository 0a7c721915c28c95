package dev.halve.core.sparsify;

import dev.halve.core.Tensor;
import java.util.Arrays;
import java.util.List;
import java.util.SplittableRandom;
import java.util.stream.IntStream;
import jdk.incubator.vector.FloatVector;
import jdk.incubator.vector.IntVector;
import jdk.incubator.vector.VectorSpecies;

/**
 * The search behind {@link ChannelPermutation}, over pairs of groups of four channels: for each
 * pair it tries all 35 ways to part its eight channels and takes the best. A sweep meets every pair
 * of groups once, in rounds of disjoint pairs, so that threads change nothing in the result. When
 * no pair gains any more, a few channels are exchanged at random and the search goes on from there;
 * a result that is not better is forgotten.
 */
final class PermutationSearch {
  // One width on every machine, and lanes summed in order: the result does not depend on either.
  private static final VectorSpecies<Integer> LANES = IntVector.SPECIES_256;

  /** A smaller relative gain is not worth another sweep. */
  private static final double LEAST_GAIN = 1e-6;

  /** The ways to part eight: a bit for each that stays with the first. */
  private static final int[] HALVES =
      IntStream.range(0, 256).filter(m -> Integer.bitCount(m) == 4 && (m & 1) == 1).toArray();

  /**
   * Magnitudes by channel, {@code [in][rows]}, the rows filled up with zeros, as the bits of
   * floats: magnitudes order as their bits do, and comparing those takes one instruction.
   */
  private final int[][] channels;

  private final int segmentGroups;
  private final SplittableRandom random;

  private final int[] order;
  private final double[] kept;
  private final long[] changed;
  private long round;

  PermutationSearch(List<Tensor> importances, int segment, long seed) {
    int in = Math.toIntExact(importances.getFirst().extent(1));
    long rows = importances.stream().mapToLong(tensor -> tensor.extent(0)).sum();
    int lanes = LANES.length();
    this.channels = new int[in][Math.toIntExact(Math.ceilDiv(rows, lanes) * lanes)];
    int row = 0;
    for (Tensor importance : importances) {
      for (long r = 0; r < importance.extent(0); r++, row++) {
        for (int channel = 0; channel < in; channel++) {
          float magnitude = Math.abs(importance.getFloat(r * in + channel));
          channels[channel][row] = Float.floatToRawIntBits(magnitude);
        }
      }
    }
    this.segmentGroups = segment / 4;
    this.random = new SplittableRandom(seed);
    this.order = IntStream.range(0, in).toArray();
    this.kept = new double[in / 4];
    this.changed = new long[in / 4];
  }

  ChannelPermutation search(int escapes) {
    for (int group = 0; group < kept.length; group++) {
      kept[group] = kept(order, 4 * group);
    }
    double before = Arrays.stream(kept).sum();
    descend();
    int[] bestOrder = order.clone();
    double[] bestKept = kept.clone();
    for (int escape = 0; escape < escapes; escape++) {
      disturb();
      descend();
      if (Arrays.stream(kept).sum() > Arrays.stream(bestKept).sum()) {
        System.arraycopy(order, 0, bestOrder, 0, order.length);
        System.arraycopy(kept, 0, bestKept, 0, kept.length);
      } else {
        restore(bestOrder, bestKept);
      }
    }
    double total = 0;
    for (int[] channel : channels) {
      for (int bits : channel) {
        total += Float.intBitsToFloat(bits);
      }
    }
    return new ChannelPermutation(bestOrder, before, Arrays.stream(bestKept).sum(), total);
  }

  /** Sweeps until no pair of groups gains. */
  private void descend() {
    // With an odd number of groups, one of each round meets nobody.
    int players = segmentGroups + segmentGroups % 2;
    boolean gained = true;
    while (gained) {
      long sweepStart = round;
      for (int r = 0; r < players - 1; r++) {
        playRound(players, r);
        round++;
      }
      gained = Arrays.stream(changed).anyMatch(when -> when >= sweepStart);
    }
  }

  /** One round of a round-robin tournament: the last player stays, the others move on by one. */
  private void playRound(int players, int r) {
    int pairs = players / 2;
    int segments = kept.length / segmentGroups;
    IntStream.range(0, pairs * segments)
        .parallel()
        .forEach(task -> {
          int pair = task % pairs;
          int first = (r + pair) % (players - 1);
          int second = pair == 0 ? players - 1 : (r + players - 1 - pair) % (players - 1);
          if (first < segmentGroups && second < segmentGroups) {
            int start = task / pairs * segmentGroups;
            improve(start + first, start + second, round - (players - 1));
          }
        });
  }

  /** Parts the channels of two groups anew if that keeps more, and either has changed since. */
  private void improve(int first, int second, long since) {
    if (changed[first] <= since && changed[second] <= since) {
      return;
    }
    int[] eight = new int[8];
    System.arraycopy(order, 4 * first, eight, 0, 4);
    System.arraycopy(order, 4 * second, eight, 4, 4);
    int[] parted = new int[8];
    int[] best = null;
    double bestFirst = 0;
    double bestSecond = 0;
    double most = (kept[first] + kept[second]) * (1 + LEAST_GAIN);
    for (int half : HALVES) {
      part(eight, half, parted);
      double firstKept = kept(parted, 0);
      double secondKept = kept(parted, 4);
      if (firstKept + secondKept > most) {
        most = firstKept + secondKept;
        best = parted.clone();
        bestFirst = firstKept;
        bestSecond = secondKept;
      }
    }
    if (best != null) {
      System.arraycopy(best, 0, order, 4 * first, 4);
      System.arraycopy(best, 4, order, 4 * second, 4);
      kept[first] = bestFirst;
      kept[second] = bestSecond;
      changed[first] = round;
      changed[second] = round;
    }
  }

  private static void part(int[] eight, int half, int[] parted) {
    int inside = 0;
    int outside = 4;
    for (int i = 0; i < 8; i++) {
      if ((half >> i & 1) == 1) {
        parted[inside++] = eight[i];
      } else {
        parted[outside++] = eight[i];
      }
    }
  }

  /** The two largest of four, summed over the rows. */
  private double kept(int[] group, int start) {
    int[] a = channels[group[start]];
    int[] b = channels[group[start + 1]];
    int[] c = channels[group[start + 2]];
    int[] d = channels[group[start + 3]];
    FloatVector sum = FloatVector.zero(FloatVector.SPECIES_256);
    for (int row = 0; row < a.length; row += LANES.length()) {
      IntVector va = IntVector.fromArray(LANES, a, row);
      IntVector vb = IntVector.fromArray(LANES, b, row);
      IntVector vc = IntVector.fromArray(LANES, c, row);
      IntVector vd = IntVector.fromArray(LANES, d, row);
      IntVector highAb = va.max(vb);
      IntVector highCd = vc.max(vd);
      IntVector low = va.min(vb).max(vc.min(vd));
      sum = sum.add(highAb.max(highCd).reinterpretAsFloats());
      sum = sum.add(highAb.min(highCd).max(low).reinterpretAsFloats());
    }
    double total = 0;
    for (int lane = 0; lane < LANES.length(); lane++) {
      total += sum.lane(lane);
    }
    return total;
  }

  /** Exchanges a few channels between groups of one segment. */
  private void disturb() {
    int segments = kept.length / segmentGroups;
    int segment = 4 * segmentGroups;
    for (int i = 0; i < Math.max(2, order.length / 128); i++) {
      int start = random.nextInt(segments) * segment;
      int one = start + random.nextInt(segment);
      int other = start + random.nextInt(segment);
      int channel = order[one];
      order[one] = order[other];
      order[other] = channel;
      touch(one / 4);
      touch(other / 4);
    }
  }

  private void restore(int[] bestOrder, double[] bestKept) {
    for (int group = 0; group < kept.length; group++) {
      if (!Arrays.equals(order, 4 * group, 4 * group + 4, bestOrder, 4 * group, 4 * group + 4)) {
        System.arraycopy(bestOrder, 4 * group, order, 4 * group, 4);
        kept[group] = bestKept[group];
        changed[group] = round;
      }
    }
  }

  private void touch(int group) {
    kept[group] = kept(order, 4 * group);
    changed[group] = round;
  }
}
