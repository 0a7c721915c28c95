package dev.halve.recipe;

import dev.halve.engine.Dropout;
import dev.halve.engine.PackedBatch;
import java.util.List;
import java.util.Random;

/**
 * Which rows each step sees, and which elements its dropout takes: functions of seed and step
 * alone, so that a step number is all there is to resume from.
 */
final class TrainingOrder {
  private final List<TrainingRow> rows;
  private final int batchSize;
  private final long seed;
  private int epoch = -1;
  private int[] order;

  TrainingOrder(List<TrainingRow> rows, int batchSize, long seed) {
    this.rows = rows;
    this.batchSize = batchSize;
    this.seed = seed;
  }

  /** What one step trains on. */
  record Batch(PackedBatch packed, int[] starts, int[] ends) {}

  int stepsPerEpoch() {
    return Math.ceilDiv(rows.size(), batchSize);
  }

  /** The batch of a step, counted from 1; the last of an epoch may be smaller. */
  Batch batch(int step) {
    int first = (step - 1) % stepsPerEpoch() * batchSize;
    shuffle((step - 1) / stepsPerEpoch());
    int count = Math.min(batchSize, rows.size() - first);
    int[][] tokenIds = new int[count][];
    int[][] typeIds = new int[count][];
    int[] starts = new int[count];
    int[] ends = new int[count];
    for (int i = 0; i < count; i++) {
      TrainingRow row = rows.get(order[first + i]);
      tokenIds[i] = row.tokenIds();
      typeIds[i] = row.typeIds();
      starts[i] = row.start();
      ends[i] = row.end();
    }
    return new Batch(PackedBatch.of(tokenIds, typeIds), starts, ends);
  }

  private void shuffle(int wanted) {
    if (wanted == epoch) {
      return;
    }
    epoch = wanted;
    order = new int[rows.size()];
    Random random = new Random(seed * 0x9E3779B97F4A7C15L + epoch);
    // Fisher and Yates, inside out.
    for (int i = 0; i < order.length; i++) {
      int j = random.nextInt(i + 1);
      order[i] = order[j];
      order[j] = i;
    }
  }

  /** The seed of a step's dropout. */
  int dropoutSeed(int step) {
    return Dropout.mix(Dropout.mix(Long.hashCode(seed)) + step);
  }

  /** Tells other rows, or rows in another order, from these. */
  long fingerprint() {
    long hash = rows.size();
    for (TrainingRow row : rows) {
      for (int i = 0; i < row.tokenIds().length; i++) {
        hash = hash * 0x100000001B3L + row.tokenIds()[i] * 2L + row.typeIds()[i];
      }
      hash = (hash * 0x100000001B3L + row.start()) * 0x100000001B3L + row.end();
    }
    return hash;
  }
}
