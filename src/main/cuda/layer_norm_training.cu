// LayerNorm in training, with the dropout and the residual before it.
//
//   dropout_residual_layer_norm   s = dropout(x) + residual;  n = (s - mean) / deviation
//                                 out = n * weight + bias; keeps s and [mean, 1 / deviation]
//   layer_norm_backward           g = dOut * weight
//                                 dSum = (g - mean(g) - n * mean(g * n)) / deviation
//                                 dX = dropout(dSum)
//                                 sums over tokens of dOut * n, dOut and dX, one partial sum a block
//
// x, residual, s, out, dOut, dSum, dX are [tokens, HIDDEN]; statistics fp32 [tokens, 2]; partial fp32
// [blocks, 3, HIDDEN]. `residual` may be null; s may be x; dSum or dX may be dOut.
//
// Bytes per element: forward 8 (6 without residual), backward 8 (6 without dropout). FLOPs: about 10
// and 20. Device memory is the floor: 12,288 tokens x 768 at 3 TB/s take 25 us each.
//
// One warp a token, a lane's share in registers. Backwards the three sums leave room for eight warps a
// multiprocessor, which fetch a token ahead. A block's partial sums are made in a fixed order, so that the
// same input gives the same bits.
//
// Compile-time: HIDDEN, DROPOUT. Launch: 128 threads; backwards at most as many blocks as the device
// holds at once.
#include "dropout.cuh"
#include "token_share.cuh"

DEVICE int column_of(int chunk, int i) { return 8 * (threadIdx.x % LANES + LANES * chunk) + i; }

// The fp32 sum over the warp's shares; lanes past the end hold zeros.
DEVICE float sum_share(const Share &share) {
  float sum = 0.0f;
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
    for (int i = 0; i < 8; i++) sum += share.chunk[c].value[i];
  }
  return warp_sum(sum);
}

DEVICE void store_share(element *row, const Share &share) {
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) store_chunk(row, column_of(c, 0), share.chunk[c]);
}

DEVICE void drop_share(Share &share, const DropoutSite &site, u32 rowKey) {
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      share.chunk[c].value[i] = site.apply(share.chunk[c].value[i], column_of(c, i), rowKey);
    }
  }
}

// What memory will hold: later passes read the rounded values, so this one uses them too.
DEVICE void round_share(Share &share) {
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) share.chunk[c] = unpack(pack(share.chunk[c]));
}

extern "C" __global__ void __launch_bounds__(128)
    dropout_residual_layer_norm(element *out, element *sum, float *statistics, const element *x,
                                const element *residual, const element *weight,
                                const element *bias, float epsilon, int tokens, DropoutSite site) {
  wait_for_previous_kernel();
  let_next_kernel_start();
#if DROPOUT
  const u32 seed = site.seed();
#endif
  Share weights, biases;
  load_share(weights, weight);
  load_share(biases, bias);
  for (int token = first_token(tokens); token >= 0; token -= token_stride()) {
    Share share;
    load_share(share, x + (u64)token * HIDDEN);
#if DROPOUT
    drop_share(share, site, dropout_row_key(token, seed));
#endif
    if (residual != nullptr) add_share(share, residual + (u64)token * HIDDEN);
    round_share(share);
    store_share(sum + (u64)token * HIDDEN, share);
    const float mean = sum_share(share) * (1.0f / HIDDEN);
    float squares = 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float difference = share.chunk[c].value[i] - mean;
        if (column_of(c, i) < HIDDEN) squares += difference * difference;
      }
    }
    const float scale = rsqrtf(warp_sum(squares) * (1.0f / HIDDEN) + epsilon);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        share.chunk[c].value[i] =
            (share.chunk[c].value[i] - mean) * scale * weights.chunk[c].value[i] +
            biases.chunk[c].value[i];
      }
    }
    store_share(out + (u64)token * HIDDEN, share);
    if (threadIdx.x % LANES == 0) {
      statistics[2 * token] = mean;
      statistics[2 * token + 1] = scale;
    }
  }
}

// Adds the four warps' shares in their order and writes them to the block's row of partial sums.
DEVICE void store_partial(float *row, float (*shared)[HIDDEN], const Share &share) {
  const int warp = threadIdx.x / LANES;
#pragma unroll
  for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const int h = column_of(c, i);
      if (h < HIDDEN) shared[warp][h] = share.chunk[c].value[i];
    }
  }
  __syncthreads();
  for (int h = threadIdx.x; h < HIDDEN; h += blockDim.x) {
    row[h] = shared[0][h] + shared[1][h] + shared[2][h] + shared[3][h];
  }
  __syncthreads();
}

// What the backward pass reads of a token, as it lies.
struct Fetched {
  uint4 sum[CHUNKS], dOut[CHUNKS];
  float mean, scale;

  DEVICE_MEMBER void fetch(const element *sums, const element *dOuts, const float *statistics,
                           int token) {
    const u64 at = (u64)token * HIDDEN;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      sum[c] = fetch_chunk(sums + at, column_of(c, 0));
      dOut[c] = fetch_chunk(dOuts + at, column_of(c, 0));
    }
    mean = statistics[2 * token];
    scale = statistics[2 * token + 1];
  }

  DEVICE_MEMBER static uint4 fetch_chunk(const element *row, int from) {
    if constexpr (ALIGNED) {
      return from < HIDDEN ? *(const uint4 *)(row + from) : make_uint4(0, 0, 0, 0);
    } else {
      return pack(load_chunk(row, from));
    }
  }
};

extern "C" __global__ void __launch_bounds__(128)
    layer_norm_backward(element *dSum, element *dX, float *partial, const element *sum,
                        const float *statistics, const element *weight, const element *dOut,
                        int tokens, DropoutSite site) {
  __shared__ __align__(16) float shared[WARPS][HIDDEN];
  wait_for_previous_kernel();
  let_next_kernel_start();
#if DROPOUT
  const u32 seed = site.seed();
#endif
  Share weights;
  load_share(weights, weight);
  Share dWeight = {}, dBias = {}, dInput = {};
  Fetched fetched;
  int token = first_token(tokens);
  if (token >= 0) fetched.fetch(sum, dOut, statistics, token);
  for (int next; token >= 0; token = next) {
    const u64 at = (u64)token * HIDDEN;
    Share n, g;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
      n.chunk[c] = unpack(fetched.sum[c]);
      g.chunk[c] = unpack(fetched.dOut[c]);
    }
    const float mean = fetched.mean, scale = fetched.scale;
    next = token - token_stride();
    if (next >= 0) fetched.fetch(sum, dOut, statistics, next);
    float sumG = 0.0f, sumGn = 0.0f;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float normalized = (n.chunk[c].value[i] - mean) * scale;
        const float gradient = g.chunk[c].value[i];
        dWeight.chunk[c].value[i] += gradient * normalized;
        dBias.chunk[c].value[i] += gradient;
        // Past the end the gradient and the weight are zero.
        const float weighted = gradient * weights.chunk[c].value[i];
        sumG += weighted;
        sumGn += weighted * normalized;
        n.chunk[c].value[i] = normalized;
        g.chunk[c].value[i] = weighted;
      }
    }
    const float meanG = warp_sum(sumG) * (1.0f / HIDDEN), meanGn = warp_sum(sumGn) * (1.0f / HIDDEN);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        g.chunk[c].value[i] =
            (g.chunk[c].value[i] - meanG - n.chunk[c].value[i] * meanGn) * scale;
      }
    }
    round_share(g);
    store_share(dSum + at, g);
#if DROPOUT
    drop_share(g, site, dropout_row_key(token, seed));
    round_share(g);
    store_share(dX + at, g);
#endif
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
#pragma unroll
      for (int i = 0; i < 8; i++) dInput.chunk[c].value[i] += g.chunk[c].value[i];
    }
  }
  float *row = partial + (u64)blockIdx.x * 3 * HIDDEN;
  store_partial(row, shared, dWeight);
  store_partial(row + HIDDEN, shared, dBias);
  store_partial(row + 2 * HIDDEN, shared, dInput);
}
