package dev.halve.recipe;

import dev.halve.engine.PretrainedModel;

/** Opens stored models, and shows how far it is where one has to be fetched. */
final class StoredModel {
  private StoredModel() {}

  /**
   * @param model as {@link PretrainedModel#open(String)} takes it
   */
  static PretrainedModel open(String model, Progress progress) {
    return Stage.download("download", listener -> PretrainedModel.open(model, listener), progress);
  }
}
