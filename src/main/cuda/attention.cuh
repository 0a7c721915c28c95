// What the attention kernels share: rows of a head's HEAD elements as tiles in shared memory.
#pragma once
#include "common.cuh"

constexpr int ROW_CHUNKS = HEAD / 8;  // of 16 bytes

// Byte offset of a chunk in a tile: the swizzle of the copy engine and of wgmma, of 128 or 64 bytes. The
// exclusive or spreads the eight rows of one ldmatrix over all banks.
DEVICE u32 chunk_offset(int row, int chunk) {
  if constexpr (HEAD == 64) return row * 128 + ((chunk ^ (row & 7)) << 4);
  return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4);
}

// Rows [0, valid) of a tile from memory by a block's threads, zeros below: what a tail leaves must not be
// NaN.
template <int ROWS, int THREADS>
DEVICE void load_rows(u32 shared, const element *from, int stride, int valid) {
#pragma unroll
  for (int i = threadIdx.x; i < ROWS * ROW_CHUNKS; i += THREADS) {
    const int row = i / ROW_CHUNKS, chunk = i % ROW_CHUNKS;
    copy_async_16(shared + chunk_offset(row, chunk),
                  from + (u64)(row < valid ? row : 0) * stride + chunk * 8, row < valid);
  }
}
