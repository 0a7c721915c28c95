package dev.halve.engine;

import java.util.List;
import java.util.Map;

/** How a room of kernels makes its devices known; found by {@link java.util.ServiceLoader}. */
public interface DeviceProvider {
  /** {@code cpu}, {@code cuda}: the part of a device's name before the colon. */
  String kind();

  /**
   * What is there, and what is missing and how to get it; never throws for absent hardware or
   * libraries.
   */
  List<Finding> discover();

  /**
   * Opens a device.
   *
   * @param index of the device among its kind
   * @throws dev.halve.core.HalveException if it cannot be used, with the reason and the way out
   */
  Device open(int index);

  /** Opens a device of a type that trains: where half precision overflows, another. */
  default Device openForTraining(int index) {
    return open(index);
  }

  /**
   * One device, library or instruction set that was looked for.
   *
   * @param name {@code cuda:0}, {@code openblas}
   * @param available whether it can be used
   * @param description what was found, or why it cannot be used
   * @param advice what to do about it; empty where nothing is to be done
   * @param details facts for a program to read
   */
  record Finding(
      String name,
      boolean available,
      String description,
      String advice,
      Map<String, String> details) {}
}
