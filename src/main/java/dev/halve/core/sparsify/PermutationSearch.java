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
 * The search behind {@link ChannelPermutation}, over pairs of groups of four channels: a pair
 * exchanges the two channels that gain most. A sweep meets every pair of groups once, in rounds of
 * disjoint pairs, so that threads change nothing in the result. Where groups are few, it then tries
 * all 35 ways to part the eight channels of a pair, which costs some ten times as much. When no
 * pair gains any more, a few channels are exchanged at random and the search goes on from there; a
 * result that is not better is forgotten.
 */
final class PermutationSearch {
  // One width on every machine, and lanes summed in order: the result does not depend on either.
  private static final VectorSpecies<Integer> LANES = IntVector.SPECIES_256;

  /** A smaller relative gain is not worth another sweep. */
  private static final double LEAST_GAIN = 1e-6;

  /** More groups than this only exchange channels, two at a time. */
  private static final int FEW_GROUPS = 64;

  /** Where groups are many, a sweep that gained less than this of what was kept is the last. */
  private static final double LEAST_SWEEP_GAIN = 2e-4;

  /** The ways to part eight: a bit for each that stays with the first. */
  private static final int[] HALVES =
      IntStream.range(0, 256).filter(m -> Integer.bitCount(m) == 4 && (m & 1) == 1).toArray();

  /**
   * Magnitudes by channel, {@code [in][rows]}, the rows filled up with zeros, as the bits of
   * floats: magnitudes order as their bits do, and comparing those takes one instruction.
   */
  private final int[][] channels;

  /**
   * The second largest of the three others, {@code [in][rows]} by place, as bits of floats, and the
   * sum over the rows of the largest: with these, what another channel in the place would keep is a
   * maximum and a sum.
   */
  private final int[][] seconds;

  private final double[] largest;

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
    this.seconds = new int[in][channels[0].length];
    this.largest = new double[in];
    this.segmentGroups = segment / 4;
    this.random = new SplittableRandom(seed);
    this.order = IntStream.range(0, in).toArray();
    this.kept = new double[in / 4];
    this.changed = new long[in / 4];
  }

  ChannelPermutation search(int escapes) {
    IntStream.range(0, kept.length).parallel().forEach(this::weigh);
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
        restore(bestOrder);
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

  /** What a pair of groups does when it meets. */
  @FunctionalInterface
  private interface Meeting {
    void improve(int first, int second);
  }

  private void descend() {
    sweep(this::exchange);
    if (segmentGroups <= FEW_GROUPS) {
      // Every pair has to meet anew: it has more to try.
      Arrays.fill(changed, round);
      sweep(this::repart);
    }
  }

  /** Sweeps until no pair of groups gains. */
  private void sweep(Meeting meeting) {
    // With an odd number of groups, one of each round meets nobody.
    int players = segmentGroups + segmentGroups % 2;
    boolean gained = true;
    while (gained) {
      long sweepStart = round;
      double before = Arrays.stream(kept).sum();
      for (int r = 0; r < players - 1; r++) {
        playRound(players, r, meeting);
        round++;
      }
      double gain = Arrays.stream(kept).sum() - before;
      gained =
          segmentGroups <= FEW_GROUPS
              ? Arrays.stream(changed).anyMatch(when -> when >= sweepStart)
              : gain > LEAST_SWEEP_GAIN * before;
    }
  }

  /** One round of a round-robin tournament: the last player stays, the others move on by one. */
  private void playRound(int players, int r, Meeting meeting) {
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
            meet(start + first, start + second, round - (players - 1), meeting);
          }
        });
  }

  /** Lets two groups meet unless neither has changed since they last did. */
  private void meet(int first, int second, long since, Meeting meeting) {
    if (changed[first] > since || changed[second] > since) {
      meeting.improve(first, second);
    }
  }

  /** Exchanges the two channels of two groups that gain most, if any do. */
  private void exchange(int first, int second) {
    double[] firstKeeps = keptWith(first, second);
    double[] secondKeeps = keptWith(second, first);
    double most = (kept[first] + kept[second]) * (1 + LEAST_GAIN);
    int best = -1;
    for (int i = 0; i < 16; i++) {
      double sum = firstKeeps[i] + secondKeeps[i % 4 * 4 + i / 4];
      if (sum > most) {
        most = sum;
        best = i;
      }
    }
    if (best >= 0) {
      int one = 4 * first + best / 4;
      int other = 4 * second + best % 4;
      int channel = order[one];
      order[one] = order[other];
      order[other] = channel;
      touch(first);
      touch(second);
    }
  }

  /**
   * What a group keeps if channel {@code j} of another takes place {@code i}, at {@code 4i + j}.
   */
  private double[] keptWith(int group, int other) {
    double[] sums = new double[16];
    for (int j = 0; j < 4; j += 2) {
      addMaxima(
          4 * group, channels[order[4 * other + j]], channels[order[4 * other + j + 1]], sums, j);
    }
    for (int i = 0; i < 16; i++) {
      sums[i] += largest[4 * group + i / 4];
    }
    return sums;
  }

  /** Sums of the maxima of four seconds with two channels: eight sums in registers. */
  private void addMaxima(int place, int[] left, int[] right, double[] sums, int j) {
    FloatVector zero = FloatVector.zero(FloatVector.SPECIES_256);
    FloatVector left0 = zero;
    FloatVector left1 = zero;
    FloatVector left2 = zero;
    FloatVector left3 = zero;
    FloatVector right0 = zero;
    FloatVector right1 = zero;
    FloatVector right2 = zero;
    FloatVector right3 = zero;
    int[] second0 = seconds[place];
    int[] second1 = seconds[place + 1];
    int[] second2 = seconds[place + 2];
    int[] second3 = seconds[place + 3];
    for (int row = 0; row < left.length; row += LANES.length()) {
      IntVector a = IntVector.fromArray(LANES, left, row);
      IntVector b = IntVector.fromArray(LANES, right, row);
      IntVector second = IntVector.fromArray(LANES, second0, row);
      left0 = left0.add(second.max(a).reinterpretAsFloats());
      right0 = right0.add(second.max(b).reinterpretAsFloats());
      second = IntVector.fromArray(LANES, second1, row);
      left1 = left1.add(second.max(a).reinterpretAsFloats());
      right1 = right1.add(second.max(b).reinterpretAsFloats());
      second = IntVector.fromArray(LANES, second2, row);
      left2 = left2.add(second.max(a).reinterpretAsFloats());
      right2 = right2.add(second.max(b).reinterpretAsFloats());
      second = IntVector.fromArray(LANES, second3, row);
      left3 = left3.add(second.max(a).reinterpretAsFloats());
      right3 = right3.add(second.max(b).reinterpretAsFloats());
    }
    sums[j] = sum(left0);
    sums[4 + j] = sum(left1);
    sums[8 + j] = sum(left2);
    sums[12 + j] = sum(left3);
    sums[j + 1] = sum(right0);
    sums[4 + j + 1] = sum(right1);
    sums[8 + j + 1] = sum(right2);
    sums[12 + j + 1] = sum(right3);
  }

  /** Parts the channels of two groups anew if that keeps more. */
  private void repart(int first, int second) {
    int[] eight = new int[8];
    System.arraycopy(order, 4 * first, eight, 0, 4);
    System.arraycopy(order, 4 * second, eight, 4, 4);
    int[] parted = new int[8];
    int[] best = null;
    double most = (kept[first] + kept[second]) * (1 + LEAST_GAIN);
    for (int half : HALVES) {
      part(eight, half, parted);
      double sum = kept(parted, 0) + kept(parted, 4);
      if (sum > most) {
        most = sum;
        best = parted.clone();
      }
    }
    if (best != null) {
      System.arraycopy(best, 0, order, 4 * first, 4);
      System.arraycopy(best, 4, order, 4 * second, 4);
      touch(first);
      touch(second);
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
    return sum(sum);
  }

  /** In the order of the lanes, whatever the machine. */
  private static double sum(FloatVector lanes) {
    double total = 0;
    for (float lane : lanes.toArray()) {
      total += lane;
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

  private void restore(int[] bestOrder) {
    for (int group = 0; group < kept.length; group++) {
      if (!Arrays.equals(order, 4 * group, 4 * group + 4, bestOrder, 4 * group, 4 * group + 4)) {
        System.arraycopy(bestOrder, 4 * group, order, 4 * group, 4);
        touch(group);
      }
    }
  }

  private void touch(int group) {
    weigh(group);
    changed[group] = round;
  }

  /** Finds what a group keeps, and what it would with one channel less. */
  private void weigh(int group) {
    int start = 4 * group;
    kept[group] = kept(order, start);
    for (int i = 0; i < 4; i++) {
      int[] a = channels[order[start + (i + 1) % 4]];
      int[] b = channels[order[start + (i + 2) % 4]];
      int[] c = channels[order[start + (i + 3) % 4]];
      FloatVector sum = FloatVector.zero(FloatVector.SPECIES_256);
      for (int row = 0; row < a.length; row += LANES.length()) {
        IntVector va = IntVector.fromArray(LANES, a, row);
        IntVector vb = IntVector.fromArray(LANES, b, row);
        IntVector vc = IntVector.fromArray(LANES, c, row);
        IntVector high = va.max(vb);
        sum = sum.add(high.max(vc).reinterpretAsFloats());
        va.min(vb).max(high.min(vc)).intoArray(seconds[start + i], row);
      }
      largest[start + i] = sum(sum);
    }
  }
}
