package dev.halve.recipe;

import dev.halve.core.HalveException;
import dev.halve.engine.DeviceProvider.Finding;
import dev.halve.engine.Devices;
import dev.halve.engine.PretrainedModel;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;

/** What this machine and this build offer, and what to do about what they do not. */
public final class Installation {
  private Installation() {}

  /** Devices first, then libraries, then models; never throws for what is absent. */
  public static List<Finding> findings() {
    List<Finding> findings = new ArrayList<>(Devices.discover());
    findings.add(onnxRuntime());
    findings.add(model("all-MiniLM-L6-v2", "rebuild with Maven, which fetches it"));
    findings.add(
        model(
            "bge-small-en-v1.5",
            "name it, as in ./halve inspect bge-small-en-v1.5: the build then fetches it (130"
                + " MB)"));
    return findings;
  }

  private static Finding onnxRuntime() {
    boolean found = Installation.class.getResource("/ai/onnxruntime/OrtEnvironment.class") != null;
    return new Finding(
        "onnxruntime",
        found,
        found ? "the peer of halve bench" : "not in this build; only halve bench --peer needs it",
        found ? "" : "rebuild with Maven, which fetches it",
        Map.of());
  }

  private static Finding model(String name, String advice) {
    try (PretrainedModel model = PretrainedModel.open(name)) {
      return new Finding(
          name,
          true,
          "%d layers of %d, vocabulary of %,d"
              .formatted(
                  model.config().numHiddenLayers(),
                  model.config().hiddenSize(),
                  model.config().vocabSize()),
          "",
          Map.of());
    } catch (HalveException absent) {
      return new Finding(name, false, "not in this build", advice, Map.of());
    }
  }
}
