package dev.halve.recipe;

import dev.halve.report.Results;
import java.nio.file.Path;

/** The whole recipe as one run of stages that can be interrupted at any moment and resumed. */
public final class Tutorial {
  private Tutorial() {}

  /**
   * Fine-tunes, prunes, retrains, compresses and measures. Leaves in the folder: the models {@code
   * dense}, {@code pruned}, {@code retrained}, {@code sparse} (Hugging Face folders), the answers
   * {@code predictions-STAGE.json}, {@code results.json}, {@code loss.csv}, {@code loss.png},
   * {@code report.html}; while it runs, {@code checkpoint.safetensors}.
   *
   * @param resume go on with the run that the folder holds, or start where it holds none; its
   *     settings must be the same
   * @throws dev.halve.core.HalveException for bad settings or input, or if the folder holds an
   *     unfinished run and {@code resume} is false
   * @throws StoppedException if the listener asked for it
   */
  public static Results run(
      TutorialSettings settings, Path out, boolean resume, Progress progress) {
    throw new UnsupportedOperationException("being written");
  }
}
