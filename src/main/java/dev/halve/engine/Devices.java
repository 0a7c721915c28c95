package dev.halve.engine;

import dev.halve.core.HalveException;
import java.util.ArrayList;
import java.util.List;
import java.util.ServiceLoader;
import java.util.function.BiFunction;

/** The devices of this machine. */
public final class Devices {
  private Devices() {}

  /**
   * Opens a device by name.
   *
   * @param name {@code cpu}, {@code cuda} (the first), {@code cuda:1}, or {@code auto}: the first
   *     GPU that works, else the CPU
   */
  public static Device open(String name) {
    return open(name, DeviceProvider::open);
  }

  /** Opens a device by name, to train on. */
  public static Device openForTraining(String name) {
    return open(name, DeviceProvider::openForTraining);
  }

  private static Device open(String name, BiFunction<DeviceProvider, Integer, Device> opener) {
    if (name.equals("auto")) {
      boolean gpu =
          discover().stream().anyMatch(found -> found.name().equals("cuda:0") && found.available());
      return open(gpu ? "cuda:0" : "cpu", opener);
    }
    int colon = name.indexOf(':');
    String kind = colon < 0 ? name : name.substring(0, colon);
    int index = 0;
    if (colon >= 0) {
      try {
        index = Integer.parseInt(name.substring(colon + 1));
      } catch (NumberFormatException notANumber) {
        throw unknown(name, notANumber);
      }
    }
    for (DeviceProvider provider : ServiceLoader.load(DeviceProvider.class)) {
      if (provider.kind().equals(kind)) {
        return opener.apply(provider, index);
      }
    }
    throw unknown(name, null);
  }

  private static HalveException unknown(String name, NumberFormatException notANumber) {
    return new HalveException(
        "'%s' is no device; use cpu, cuda:0 (the first GPU) or auto".formatted(name), notANumber);
  }

  /** Everything that every provider looked for. */
  public static List<DeviceProvider.Finding> discover() {
    List<DeviceProvider.Finding> findings = new ArrayList<>();
    for (DeviceProvider provider : ServiceLoader.load(DeviceProvider.class)) {
      findings.addAll(provider.discover());
    }
    return findings;
  }
}
