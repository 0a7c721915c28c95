// Dropout from a counter-based generator, the same bits as dev.halve.engine.Dropout: an element is
// dropped where mix(column * DROPOUT_COLUMN + mix(row ^ seed)) >> 8 is below the threshold. The
// backward pass computes the same again; nothing is stored. About 10 integer instructions.
#pragma once
#include "common.cuh"

constexpr u32 DROPOUT_COLUMN = 0x9E3779B9u;

// "lowbias32" (Ettinger, 2018).
DEVICE u32 mix(u32 x) {
  x ^= x >> 16;
  x *= 0x7feb352du;
  x ^= x >> 15;
  x *= 0x846ca68bu;
  x ^= x >> 16;
  return x;
}

DEVICE u32 dropout_row_key(u32 row, u32 seed) { return mix(row ^ seed); }

// One use of dropout in a step. The step's seed lies in memory, so that a recorded launch sees the
// next step's.
struct DropoutSite {
  const u32 *stepSeed;
  u32 siteHash;   // mix of the site's number
  u32 threshold;  // probability * 2^24
  float scale;    // 1 / (1 - probability)

  DEVICE_MEMBER u32 seed() const { return mix(*stepSeed + siteHash); }
  DEVICE_MEMBER bool keeps(u32 columnTerm, u32 rowKey) const {
    return mix(columnTerm + rowKey) >> 8 >= threshold;
  }
  DEVICE_MEMBER float apply(float value, u32 column, u32 rowKey) const {
    return keeps(column * DROPOUT_COLUMN, rowKey) ? value * scale : 0.0f;
  }
};
