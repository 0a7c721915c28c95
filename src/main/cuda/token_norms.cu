// From the moments of each 64 columns of a row to the two numbers that make its LayerNorm a
// multiplication and an addition: norms[t] = {scale, -mean * scale}, scale = 1 / sqrt(var + epsilon).
//
//   moments   float2 [ceil(HIDDEN / 64), tokens], mean and sum of squares around it
//   norms     float2 [tokens]
//
// The moments are merged pair by pair after Chan, Golub and LeVeque (1983), which keeps the digits that
// a difference of large sums would lose.
//
// Bytes: 8 * (HIDDEN / 64 + 1) a token, 10 MB for 98,304 tokens of 768, most of it still in L2: 3 us.
// Compile-time: HIDDEN. Launch: 128 threads, a token each.
#include "common.cuh"

constexpr int BLOCKS = (HIDDEN + 63) / 64;

extern "C" __global__ void __launch_bounds__(128)
    token_norms(float2 *norms, const float2 *moments, float epsilon, int tokens) {
  const int token = blockIdx.x * 128 + threadIdx.x;
  wait_for_previous_kernel();
  let_next_kernel_start();
  if (token >= tokens) return;
  float2 blocks[BLOCKS];
#pragma unroll
  for (int b = 0; b < BLOCKS; b++) blocks[b] = moments[(u64)b * tokens + token];
  float mean = 0.0f, squares = 0.0f;
#pragma unroll
  for (int b = 0; b < BLOCKS; b++) {
    const float before = 64.0f * b, count = b + 1 < BLOCKS ? 64.0f : HIDDEN - 64.0f * b;
    const float share = count / (before + count), apart = blocks[b].x - mean;
    mean = fmaf(apart, share, mean);
    squares += fmaf(apart * apart, before * share, blocks[b].y);
  }
  const float scale = rsqrtf(squares * (1.0f / HIDDEN) + epsilon);
  norms[token] = make_float2(scale, -mean * scale);
}
