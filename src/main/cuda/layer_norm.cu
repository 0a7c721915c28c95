// LayerNorm over the hidden axis, with or without the residual added first, and the BERT embeddings
// that end in one.
//
//   layer_norm             out[t] = norm(x[t])                                     [tokens, HIDDEN]
//   residual_layer_norm    out[t] = norm(x[t] + residual[t])
//   embeddings_layer_norm  out[t] = norm(word[ids[t]] + position[positions[t]] + type[types[t]])
//   embeddings             the same without the norm
//   embeddings_norms       that, and what would make each row its norm, but for weight and bias: as
//                          norms[t] = {scale, shift}, norm = scale * v + shift
//   norm(v) = (v - mean(v)) / sqrt(var(v) + epsilon) * weight + bias, statistics in fp32, the
//   variance around the mean (two passes over registers, none over memory).
//
// Bytes: 4 per element (6 with a residual; the embedding tables stay in L2), FLOPs: about 9 per
// element, so device memory is the floor: 98,304 tokens x 768 at 3 TB/s are 0.10 ms.
//
// One warp a token. A lane keeps its share of the weight and the bias in registers while its warp
// walks the tokens, and holds up to CHUNKS 16-byte loads in flight. x, residual and out may be the
// same buffer: a warp reads its whole token before it writes.
//
// Compile-time: HIDDEN. Launch: 128 threads, at most as many blocks as the device holds at once.
#include "token_share.cuh"

// The weight and the bias of the norm.
struct Affine {
  Share weight, bias;

  DEVICE_MEMBER Affine(const element *weights, const element *biases) {
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const int h = 8 * (threadIdx.x % LANES + LANES * c) + i;
        weight.chunk[c].value[i] = h < HIDDEN ? to_float(weights[h]) : 0.0f;
        bias.chunk[c].value[i] = h < HIDDEN ? to_float(biases[h]) : 0.0f;
      }
    }
  }
};

DEVICE void normalize_and_store(element *row, const Share &share, const Affine &affine,
                                float epsilon) {
  const Statistics statistics(share, epsilon);
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
    Eight result;
#pragma unroll
    for (int i = 0; i < 8; i++) {
      result.value[i] = (share.chunk[c].value[i] - statistics.mean) * statistics.scale *
                            affine.weight.chunk[c].value[i] +
                        affine.bias.chunk[c].value[i];
    }
    store_chunk(row, 8 * (threadIdx.x % LANES + LANES * c), result);
  }
}

extern "C" __global__ void __launch_bounds__(128)
    layer_norm(element *out, const element *x, const element *weight, const element *bias,
               float epsilon, int tokens) {
  const Affine affine(weight, bias);  // not written by any kernel, so it need not wait
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share share;
    load_share(share, x + (u64)token * HIDDEN);
    normalize_and_store(out + (u64)token * HIDDEN, share, affine, epsilon);
  }
}

extern "C" __global__ void __launch_bounds__(128)
    residual_layer_norm(element *out, const element *x, const element *residual,
                        const element *weight, const element *bias, float epsilon, int tokens) {
  const Affine affine(weight, bias);
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share share;
    load_share(share, x + (u64)token * HIDDEN);
    add_share(share, residual + (u64)token * HIDDEN);
    normalize_and_store(out + (u64)token * HIDDEN, share, affine, epsilon);
  }
}

extern "C" __global__ void __launch_bounds__(128)
    embeddings_layer_norm(element *out, const int *ids, const int *positions, const int *types,
                          const element *word, const element *position, const element *type,
                          const element *weight, const element *bias, float epsilon, int tokens) {
  const Affine affine(weight, bias);
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share share;
    load_share(share, word + (u64)ids[token] * HIDDEN);
    add_share(share, position + (u64)positions[token] * HIDDEN);
    add_share(share, type + (u64)types[token] * HIDDEN);
    normalize_and_store(out + (u64)token * HIDDEN, share, affine, epsilon);
  }
}

extern "C" __global__ void __launch_bounds__(128)
    embeddings_norms(element *out, float2 *norms, const int *ids, const int *positions,
                     const int *types, const element *word, const element *position,
                     const element *type, float epsilon, int tokens) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share share;
    load_share(share, word + (u64)ids[token] * HIDDEN);
    add_share(share, position + (u64)positions[token] * HIDDEN);
    add_share(share, type + (u64)types[token] * HIDDEN);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      store_chunk(out + (u64)token * HIDDEN, 8 * (threadIdx.x % LANES + LANES * c), share.chunk[c]);
    }
    const Statistics statistics(share, epsilon);
    if (threadIdx.x % LANES == 0) {
      norms[token] = make_float2(statistics.scale, -statistics.mean * statistics.scale);
    }
  }
}

extern "C" __global__ void __launch_bounds__(128)
    embeddings(element *out, const int *ids, const int *positions, const int *types,
               const element *word, const element *position, const element *type, int tokens) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share share;
    load_share(share, word + (u64)ids[token] * HIDDEN);
    add_share(share, position + (u64)positions[token] * HIDDEN);
    add_share(share, type + (u64)types[token] * HIDDEN);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      store_chunk(out + (u64)token * HIDDEN, 8 * (threadIdx.x % LANES + LANES * c), share.chunk[c]);
    }
  }
}
