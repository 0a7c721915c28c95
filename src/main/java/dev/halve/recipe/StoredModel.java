package dev.halve.recipe;

import dev.halve.engine.PretrainedModel;

/** Opens stored models, and shows how far it is where one has to be fetched. */
final class StoredModel {
  private StoredModel() {}

  /**
   * @param model as {@link PretrainedModel#open(String)} takes it
   */
  static PretrainedModel open(String model, Progress progress) {
    Stage[] stage = new Stage[1];
    PretrainedModel opened =
        PretrainedModel.open(
            model,
            (bytes, total) -> {
              if (stage[0] == null) {
                stage[0] = Stage.begin(progress, "download", total >> 20, "MiB");
              }
              stage[0].checkStop("the next run goes on where this one stopped");
              stage[0].advance(bytes >> 20, "");
            });
    if (stage[0] != null) {
      stage[0].end();
    }
    return opened;
  }
}
