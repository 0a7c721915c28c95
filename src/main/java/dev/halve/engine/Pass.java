package dev.halve.engine;

/**
 * What the layers share during one forward (and backward) pass over one batch: where to compute,
 * where scratch memory comes from, and, in training, the seed of the step's dropout.
 */
public final class Pass {
  private final Workspace workspace;
  private final DeviceBatch batch;
  private final boolean training;
  private final boolean drops;
  private final int seed;
  private int site;

  private Pass(Workspace workspace, DeviceBatch batch, boolean training, boolean drops, int seed) {
    this.workspace = workspace;
    this.batch = batch;
    this.training = training;
    this.drops = drops;
    this.seed = seed;
  }

  /** A pass without dropout that keeps nothing for a backward pass. */
  public static Pass inference(Workspace workspace, PackedBatch batch) {
    return new Pass(workspace, DeviceBatch.upload(workspace, batch), false, false, 0);
  }

  /** An inference pass over a batch that is on the device already. */
  public static Pass inference(Workspace workspace, DeviceBatch batch) {
    return new Pass(workspace, batch, false, false, 0);
  }

  /**
   * A training pass over a batch that is on the device already.
   *
   * @param seed of this step; the same seed drops the same elements
   */
  public static Pass training(Workspace workspace, DeviceBatch batch, int seed) {
    return new Pass(workspace, batch, true, true, seed);
  }

  /** A training pass that drops nothing. */
  static Pass trainingWithoutDropout(Workspace workspace, PackedBatch batch) {
    return new Pass(workspace, DeviceBatch.upload(workspace, batch), true, false, 0);
  }

  public Device device() {
    return workspace.device();
  }

  public Workspace workspace() {
    return workspace;
  }

  public DeviceBatch batch() {
    return batch;
  }

  public int tokens() {
    return batch.tokens();
  }

  public boolean training() {
    return training;
  }

  /**
   * Dropout for the next place in the model that drops: places are numbered in the order in which
   * they run.
   */
  Dropout nextDropout(float probability) {
    site++;
    return drops && probability > 0 ? new Dropout(probability, seed, site) : Dropout.NONE;
  }
}
