package dev.halve.core.sparsify;

import dev.halve.core.Tensor;
import java.lang.foreign.Arena;

/** What a sparsifier needs of a layer: a weight {@code [out, in]}, and a place for its mask. */
public interface Sparsifiable {
  /** The module's name: {@code bert.encoder.layer.0.attention.self.query}. */
  String name();

  /** A host copy of the weight, F32 {@code [out, in]}. */
  Tensor weight(Arena arena);

  /** Copies a host weight {@code [out, in]} in. */
  void setWeight(Tensor host);

  /** A host copy of the mask, U8 {@code [out, in]} with 1 for an element that stays, or null. */
  Tensor mask(Arena arena);

  /** Puts a mask on the weight, U8 {@code [out, in]}, or takes it off (null). */
  void setMask(Tensor host);
}
