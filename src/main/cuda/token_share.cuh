// One warp walks over a token: a lane's share of its HIDDEN elements, in registers as fp32.
#pragma once
#include "common.cuh"

constexpr int LANES = 32;
constexpr int WARPS = 4;
constexpr int CHUNKS = (HIDDEN + 8 * LANES - 1) / (8 * LANES);
constexpr bool ALIGNED = HIDDEN % 8 == 0;

// A lane's share of a token: chunk c holds the elements from 8 * (lane + 32 c).
struct Share {
  Eight chunk[CHUNKS];
};

DEVICE Eight load_chunk(const element *row, int from) {
  if constexpr (ALIGNED) {
    return from < HIDDEN ? unpack(*(const uint4 *)(row + from)) : Eight{};
  } else {
    Eight chunk = {};
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (from + i < HIDDEN) chunk.value[i] = to_float(row[from + i]);
    }
    return chunk;
  }
}

DEVICE void store_chunk(element *row, int from, const Eight &chunk) {
  if constexpr (ALIGNED) {
    if (from < HIDDEN) *(uint4 *)(row + from) = pack(chunk);
  } else {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      if (from + i < HIDDEN) row[from + i] = to_element(chunk.value[i]);
    }
  }
}

DEVICE void load_share(Share &share, const element *row) {
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    share.chunk[c] = load_chunk(row, 8 * (threadIdx.x % LANES + LANES * c));
  }
}

DEVICE void add_share(Share &share, const element *row) {
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    const Eight other = load_chunk(row, 8 * (threadIdx.x % LANES + LANES * c));
#pragma unroll
    for (int i = 0; i < 8; i++) share.chunk[c].value[i] += other.value[i];
  }
}

// Of a whole token, the same in every lane: the mean, and one over the deviation around it.
struct Statistics {
  float mean, scale;

  DEVICE_MEMBER Statistics(const Share &share, float epsilon) {
    float sum = 0.0f, squares = 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 8; i++) sum += share.chunk[c].value[i];
    }
    mean = warp_sum(sum) * (1.0f / HIDDEN);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float difference = share.chunk[c].value[i] - mean;
        // Lanes past the end hold zeros, which are not part of the variance.
        if (8 * ((int)threadIdx.x % LANES + LANES * c) + i < HIDDEN) squares += difference * difference;
      }
    }
    scale = rsqrtf(warp_sum(squares) * (1.0f / HIDDEN) + epsilon);
  }
};

// From the last token to the first: what the kernel before wrote last is still in L2, and what this one
// writes last is what the next one, which starts at the first token, reads first.
DEVICE int first_token(int tokens) { return tokens - 1 - (blockIdx.x * WARPS + threadIdx.x / LANES); }
DEVICE int token_stride() { return gridDim.x * WARPS; }
