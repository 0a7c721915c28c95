/**
 * The encoder engine: parameters, layers with forward and backward side by side, the optimizer, and
 * the {@link dev.halve.engine.Device} that carries them out. Devices implement the interface from
 * their own rooms and are found by {@link java.util.ServiceLoader}; nothing here names one. Models
 * come in from {@code core.io}; text never does.
 */
package dev.halve.engine;
