// A head of few outputs: logits[t] = v[t] . weight^T + bias, for x [tokens, HIDDEN] and a weight of
// [OUTPUTS, HIDDEN], all arithmetic fp32.
//
//   head        v = x
//   norm_head   v = norm(x), where nothing else reads the norm; what norm is, layer_norm.cu says
//
// Logits are [tokens, OUTPUTS] with rows `pitch` apart: fp32, or elements where ELEMENT_LOGITS is 1, as
// the eager mode's layers want them.
//
// Bytes: 2 per element of x (the weights stay in L1), FLOPs: 2 x OUTPUTS per element, and 9 for the norm,
// so device memory is the floor: 98,304 tokens x 768 at 3 TB/s are 0.05 ms. A GEMM would pad 2 outputs to
// a tile and write them as 16-bit elements.
//
// One warp a token. Compile-time: HIDDEN, OUTPUTS (at most 32), ELEMENT_LOGITS. Launch: 128 threads, as many
// blocks as fit.
#include "token_share.cuh"

#if ELEMENT_LOGITS
typedef element logit;
DEVICE logit to_logit(float value) { return to_element(value); }
#else
typedef float logit;
DEVICE logit to_logit(float value) { return value; }
#endif

DEVICE void store_logits(logit *row, const Share &share, const element *weight, const element *bias) {
  const int lane = threadIdx.x % LANES;
  float dots[OUTPUTS] = {};
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) {
      const Eight weights = load_chunk(weight + o * HIDDEN, 8 * (lane + LANES * c));
#pragma unroll
      for (int i = 0; i < 8; i++) dots[o] += share.chunk[c].value[i] * weights.value[i];
    }
  }
#pragma unroll
  for (int o = 0; o < OUTPUTS; o++) dots[o] = warp_sum(dots[o]) + to_float(bias[o]);
  float mine = dots[0];
#pragma unroll
  for (int o = 1; o < OUTPUTS; o++) mine = lane == o ? dots[o] : mine;
  if (lane < OUTPUTS) row[lane] = to_logit(mine);
}

extern "C" __global__ void __launch_bounds__(128)
    head(logit *logits, int pitch, const element *x, const element *weight, const element *bias,
         int tokens) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share share;
    load_share(share, x + (u64)token * HIDDEN);
    store_logits(logits + (u64)token * pitch, share, weight, bias);
  }
}

extern "C" __global__ void __launch_bounds__(128)
    norm_head(logit *logits, int pitch, const element *x, const element *gamma, const element *beta,
              float epsilon, const element *weight, const element *bias, int tokens) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share share;
    load_share(share, x + (u64)token * HIDDEN);
    const Statistics statistics(share, epsilon);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      const int from = 8 * (threadIdx.x % LANES + LANES * c);
      const Eight gammas = load_chunk(gamma, from), betas = load_chunk(beta, from);
#pragma unroll
      for (int i = 0; i < 8; i++) {
        float &value = share.chunk[c].value[i];
        value = (value - statistics.mean) * statistics.scale * gammas.value[i] + betas.value[i];
      }
    }
    store_logits(logits + (u64)token * pitch, share, weight, bias);
  }
}
