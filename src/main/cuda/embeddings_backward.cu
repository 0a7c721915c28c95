// The gradients of the embedding tables: dWord[ids[t]] += dOut[t], dPosition[positions[t]] += dOut[t]
// (a token's position is its index less its row's offset), dType[types[t]] += dOut[t].
//
// dOut is [tokens, HIDDEN] elements, the tables fp32. No two blocks add to one element and every sum
// has a fixed order, so that the same input gives the same bits: no atomics.
//
//   word_gradient      a block for each token; the first token of each id adds up all of that id, in
//                      their order, and marks its row; the others leave at once
//   position_gradient  a block for each position, over the rows
//   type_gradient      partial[block, type] over a block's tokens; add_partials of column_sums.cu follows
//
// Bytes: 6 per element of dOut and 8 per element of the rows touched; ids are compared tokens^2 / 2
// times at the most, from the cache.
//
// Compile-time: HIDDEN (a multiple of 8), TYPES. Launch: 128 threads; grids: tokens; the longest row;
// any number of parts.
#include "common.cuh"

constexpr int THREADS = 128;
constexpr u8 ANYTHING = 2;  // of a row's states in adamw.cu
constexpr int GROUPS = HIDDEN / 8;
constexpr int SHARES = (GROUPS + THREADS - 1) / THREADS;
constexpr int PER_THREAD = 16;
constexpr int WINDOW = THREADS * PER_THREAD;

struct Sums {
  Eight share[SHARES];

  DEVICE_MEMBER void add(const element *row) {
#pragma unroll
    for (int s = 0; s < SHARES; s++) {
      const int group = threadIdx.x + s * THREADS;
      if (group < GROUPS) {
        const Eight values = unpack(((const uint4 *)row)[group]);
#pragma unroll
        for (int i = 0; i < 8; i++) share[s].value[i] += values.value[i];
      }
    }
  }

  DEVICE_MEMBER void add_to(float *row) const {
#pragma unroll
    for (int s = 0; s < SHARES; s++) {
      const int group = threadIdx.x + s * THREADS;
      if (group < GROUPS) {
#pragma unroll
        for (int i = 0; i < 8; i++) row[group * 8 + i] += share[s].value[i];
      }
    }
  }
};

extern "C" __global__ void __launch_bounds__(THREADS)
    word_gradient(float *dWord, u8 *states, const element *dOut, const int *ids,
                  const int *tokenCount) {
  __shared__ int matches[WINDOW];
  __shared__ int before[PER_THREAD * THREADS / 32 + 1];
  const int tokens = *tokenCount, token = blockIdx.x;
  if (token >= tokens) return;
  const int id = ids[token];
  for (int from = 0; from < token; from += WINDOW) {
    bool found = false;
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
      const int other = from + k * THREADS + threadIdx.x;
      found |= other < token && ids[other] == id;
    }
    if (__syncthreads_or(found)) return;
  }
  Sums sums = {};
  for (int from = token; from < tokens; from += WINDOW) {
    u32 mine = 0;
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
      const int other = from + k * THREADS + threadIdx.x;
      const bool match = other < tokens && ids[other] == id;
      const u32 ballot = __ballot_sync(0xffffffffu, match);
      if (match) mine |= 1u << k;
      if (threadIdx.x % 32 == 0) before[k * (THREADS / 32) + threadIdx.x / 32 + 1] = __popc(ballot);
    }
    __syncthreads();
    if (threadIdx.x == 0) {
      before[0] = 0;
      for (int i = 0; i < PER_THREAD * THREADS / 32; i++) before[i + 1] += before[i];
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < PER_THREAD; k++) {
      const bool match = mine >> k & 1;
      const u32 ballot = __ballot_sync(0xffffffffu, match);
      const int lower = __popc(ballot & ((1u << threadIdx.x % 32) - 1));
      if (match) {
        matches[before[k * (THREADS / 32) + threadIdx.x / 32] + lower] =
            from + k * THREADS + threadIdx.x;
      }
    }
    __syncthreads();
    const int count = before[PER_THREAD * THREADS / 32];
#pragma unroll 4
    for (int i = 0; i < count; i++) sums.add(dOut + (u64)matches[i] * HIDDEN);
    __syncthreads();
  }
  sums.add_to(dWord + (u64)id * HIDDEN);
  if (threadIdx.x == 0) states[id] = ANYTHING;
}

extern "C" __global__ void __launch_bounds__(THREADS)
    position_gradient(float *dPosition, const element *dOut, const int *rowOffsets, int rows,
                      const int *tokenCount) {
  const int position = blockIdx.x, tokens = *tokenCount;
  Sums sums = {};
#pragma unroll 4
  for (int row = 0; row < rows; row++) {
    const int token = rowOffsets[row] + position;
    if (token < rowOffsets[row + 1] && token < tokens) sums.add(dOut + (u64)token * HIDDEN);
  }
  sums.add_to(dPosition + (u64)position * HIDDEN);
}

extern "C" __global__ void __launch_bounds__(THREADS)
    type_gradient(float *partial, const element *dOut, const int *types, const int *tokenCount) {
  const int tokens = *tokenCount;
  const int first = (int)((u64)tokens * blockIdx.x / gridDim.x);
  const int end = (int)((u64)tokens * (blockIdx.x + 1) / gridDim.x);
  for (int type = 0; type < TYPES; type++) {
    float *row = partial + ((u64)blockIdx.x * TYPES + type) * HIDDEN;
    Sums sums = {};
#pragma unroll 4
    for (int token = first; token < end; token++) {
      if (types[token] == type) sums.add(dOut + (u64)token * HIDDEN);
    }
#pragma unroll
    for (int s = 0; s < SHARES; s++) {
      const int group = threadIdx.x + s * THREADS;
      if (group < GROUPS) {
#pragma unroll
        for (int i = 0; i < 8; i++) row[group * 8 + i] = sums.share[s].value[i];
      }
    }
  }
}
