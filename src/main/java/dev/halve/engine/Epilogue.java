package dev.halve.engine;

/** What follows a product and its bias, in the same pass over the output. */
public enum Epilogue {
  NONE,
  /** {@code x * (1 + erf(x / sqrt 2)) / 2}, the exact form that BERT uses. */
  GELU
}
