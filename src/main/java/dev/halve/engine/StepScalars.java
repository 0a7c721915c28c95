package dev.halve.engine;

/**
 * The numbers that change from one training step to the next. Recorded operations read them from
 * the device's memory ({@link Replay}).
 *
 * @param seed of the step's dropout
 * @param optimizer with the learning rate of the step
 * @param step counts from 1
 */
public record StepScalars(int seed, AdamW optimizer, int step) {}
