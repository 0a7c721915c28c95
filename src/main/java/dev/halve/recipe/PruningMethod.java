package dev.halve.recipe;

import com.fasterxml.jackson.annotation.JsonValue;
import java.util.Locale;

/** The methods of {@code dev.halve.core.sparsify}, as {@code halve prune --method} names them. */
public enum PruningMethod {
  /** By magnitude: {@link dev.halve.core.sparsify.WeightNormSparsifier}. */
  MAGNITUDE,
  /** By magnitude times the norm of the input: {@link dev.halve.core.sparsify.WandaSparsifier}. */
  WANDA,
  /** By second order, with an update: {@link dev.halve.core.sparsify.SparseGptSparsifier}. */
  SPARSEGPT,
  /** 2:4 along both axes: {@link dev.halve.core.sparsify.TransposableSparsifier}. */
  TRANSPOSABLE;

  /** Whether the method looks at activations. */
  public boolean calibrates() {
    return this == WANDA || this == SPARSEGPT;
  }

  @Override
  @JsonValue
  public String toString() {
    return name().toLowerCase(Locale.ROOT);
  }
}
