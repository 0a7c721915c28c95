// The question-answering head after a LayerNorm that nothing else reads: logits[t] = norm(x[t]) .
// weight^T + bias, for [tokens, HIDDEN] and a weight of [OUTPUTS, HIDDEN]; logits fp32 [tokens, OUTPUTS],
// all arithmetic fp32. What norm is, layer_norm.cu says; what the product is, qa_head.cu.
//
// Bytes: 2 per element of x (the weights stay in L1), FLOPs: 9 + 2 x OUTPUTS per element, so device
// memory is the floor: 98,304 tokens x 768 at 3 TB/s are 0.05 ms.
//
// One warp a token. Compile-time: HIDDEN, OUTPUTS. Launch: 128 threads, as many blocks as fit.
#include "token_share.cuh"

extern "C" __global__ void __launch_bounds__(128)
    norm_head(float *logits, const element *x, const element *gamma, const element *beta,
              float epsilon, const element *weight, const element *bias, int tokens) {
  const int lane = threadIdx.x % LANES;
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share share;
    load_share(share, x + (u64)token * HIDDEN);
    const Statistics statistics(share, epsilon);
    float dots[OUTPUTS] = {};
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      const int from = 8 * (lane + LANES * c);
      const Eight gammas = load_chunk(gamma, from), betas = load_chunk(beta, from);
      Eight normed;
#pragma unroll
      for (int i = 0; i < 8; i++) {
        normed.value[i] = (share.chunk[c].value[i] - statistics.mean) * statistics.scale *
                              gammas.value[i] +
                          betas.value[i];
      }
#pragma unroll
      for (int o = 0; o < OUTPUTS; o++) {
        const Eight weights = load_chunk(weight + o * HIDDEN, from);
#pragma unroll
        for (int i = 0; i < 8; i++) dots[o] += normed.value[i] * weights.value[i];
      }
    }
#pragma unroll
    for (int o = 0; o < OUTPUTS; o++) dots[o] = warp_sum(dots[o]) + to_float(bias[o]);
    float mine = dots[0];
#pragma unroll
    for (int o = 1; o < OUTPUTS; o++) mine = lane == o ? dots[o] : mine;
    if (lane < OUTPUTS) logits[(u64)token * OUTPUTS + lane] = mine;
  }
}
