// Dropout from a counter-based generator, the same bits as dev.halve.engine.Dropout: columns that differ
// in bit 3 alone share mix((column & ~8) * DROPOUT_COLUMN + mix(row ^ seed)), and an element is dropped
// where its half is below the threshold, the low half where bit 3 is clear. The backward pass computes
// the same again; nothing is stored. About 10 integer instructions, of which two columns share 8.
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
  u32 threshold;  // probability * 2^16, in the upper half
  float scale;    // 1 / (1 - probability)

  DEVICE_MEMBER u32 seed() const { return mix(*stepSeed + siteHash); }
  // Of a column whose bit 3 is clear and the one eight on: whether bit 3's half keeps an element.
  DEVICE_MEMBER u32 both(u32 column, u32 rowKey) const {
    return mix(column * DROPOUT_COLUMN + rowKey);
  }
  DEVICE_MEMBER bool keeps_half(u32 both, bool upper) const {
    return (upper ? both : both << 16) >= threshold;
  }
  DEVICE_MEMBER bool keeps(u32 column, u32 rowKey) const {
    return keeps_half(both(column & ~8u, rowKey), column & 8);
  }
  DEVICE_MEMBER float apply(float value, u32 column, u32 rowKey) const {
    return keeps(column, rowKey) ? value * scale : 0.0f;
  }
};
