// The gradients of a head of OUTPUTS outputs, y = x . weight^T + bias: dX[t] = sum over o of dY[t, o]
// * weight[o], and by block the sums over tokens of dY[t, o] * x[t] and of dY[t, o], which
// add_partials of column_sums.cu adds up.
//
// x and dX are [tokens, HIDDEN] elements, weight [OUTPUTS, HIDDEN] elements, dY fp32 [tokens,
// OUTPUTS]; partial fp32 [blocks, OUTPUTS * HIDDEN + OUTPUTS]. dX may be null.
//
// Bytes: 4 per element of x, FLOPs: 4 * OUTPUTS. One warp a token.
//
// Compile-time: HIDDEN, OUTPUTS. Launch: 128 threads, as many blocks as fit.
#include "token_share.cuh"

extern "C" __global__ void __launch_bounds__(128)
    head_backward(element *dX, float *partial, const element *x, const element *weight,
                  const float *dY, int tokens) {
  __shared__ float shared[WARPS][HIDDEN + 1];
  const int lane = threadIdx.x % LANES, warp = threadIdx.x / LANES;
  Share dWeight[OUTPUTS] = {};
  float dBias[OUTPUTS] = {};
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share input;
    load_share(input, x + (u64)token * HIDDEN);
    float gradient[OUTPUTS];
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      gradient[o] = dY[(u64)token * OUTPUTS + o];
      dBias[o] += gradient[o];
    }
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      const int from = 8 * (lane + LANES * c);
      Eight result = {};
#pragma unroll
      for (int o = 0; o < OUTPUTS; o++) {
        const Eight weights = load_chunk(weight + o * HIDDEN, from);
#pragma unroll
        for (int i = 0; i < 8; i++) {
          dWeight[o].chunk[c].value[i] += gradient[o] * input.chunk[c].value[i];
          result.value[i] += gradient[o] * weights.value[i];
        }
      }
      if (dX != nullptr) store_chunk(dX + (u64)token * HIDDEN, from, result);
    }
  }
  float *row = partial + (u64)blockIdx.x * (OUTPUTS * HIDDEN + OUTPUTS);
#pragma unroll
  for (int o = 0; o < OUTPUTS; o++) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int h = 8 * (lane + LANES * c) + i;
        if (h < HIDDEN) shared[warp][h] = dWeight[o].chunk[c].value[i];
      }
    }
    if (lane == 0) shared[warp][HIDDEN] = dBias[o];
    __syncthreads();
    for (int h = threadIdx.x; h <= HIDDEN; h += 128) {
      const float sum = shared[0][h] + shared[1][h] + shared[2][h] + shared[3][h];
      row[h < HIDDEN ? o * HIDDEN + h : OUTPUTS * HIDDEN + o] = sum;
    }
    __syncthreads();
  }
}
