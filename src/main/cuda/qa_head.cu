// The question-answering head: logits[t] = x[t] . weight^T + bias, for [tokens, HIDDEN] and a weight
// of [OUTPUTS, HIDDEN]; sums in fp32. Logits are [tokens, OUTPUTS] with rows `pitch` apart: fp32, or
// elements where ELEMENT_LOGITS is 1, as the eager mode's layers want them.
//
// Bytes: 2 per element of x (the weight stays in L1), FLOPs: 2 x OUTPUTS per element, so device
// memory is the floor: 98,304 tokens x 768 at 3 TB/s are 0.05 ms. A GEMM would pad 2 outputs to a
// tile and write them as 16-bit elements.
//
// One warp a token. Compile-time: HIDDEN, OUTPUTS, ELEMENT_LOGITS. Launch: 128 threads, as many blocks as fit.
#include "common.cuh"

constexpr int LANES = 32;
constexpr int WARPS = 4;

#if ELEMENT_LOGITS
typedef element logit;
DEVICE logit to_logit(float value) { return to_element(value); }
#else
typedef float logit;
DEVICE logit to_logit(float value) { return value; }
#endif

extern "C" __global__ void __launch_bounds__(128)
    qa_head(logit *logits, const element *x, const element *weight, const element *bias, int tokens,
            int pitch) {
  const int lane = threadIdx.x % LANES;
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int token = blockIdx.x * WARPS + threadIdx.x / LANES; token < tokens;
       token += gridDim.x * WARPS) {
    const element *row = x + (u64)token * HIDDEN;
    float sum[OUTPUTS] = {};
    if constexpr (HIDDEN % 8 == 0) {
#pragma unroll
      for (int from = 0; from < HIDDEN; from += 8 * LANES) {
        const int h = from + 8 * lane;
        if (h >= HIDDEN) break;
        const Eight values = unpack(*(const uint4 *)(row + h));
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) {
          const Eight weights = unpack(*(const uint4 *)(weight + o * HIDDEN + h));
#pragma unroll
          for (int i = 0; i < 8; i++) sum[o] += values.value[i] * weights.value[i];
        }
      }
    } else {
      for (int h = lane; h < HIDDEN; h += LANES) {
        const float value = to_float(row[h]);
#pragma unroll
        for (int o = 0; o < OUTPUTS; o++) sum[o] += value * to_float(weight[o * HIDDEN + h]);
      }
    }
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) sum[o] = warp_sum(sum[o]) + to_float(bias[o]);
    float mine = sum[0];
#pragma unroll
    for (int o = 1; o < OUTPUTS; o++) mine = lane == o ? sum[o] : mine;
    if (lane < OUTPUTS) logits[(u64)token * pitch + lane] = to_logit(mine);
  }
}
