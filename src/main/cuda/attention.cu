// Self-attention of packed rows: for each row r of the batch and each head, over the tokens
// [rowOffsets[r], rowOffsets[r + 1]),
//
//   out = softmax(Q K^T * scale) V
//
// Q, K and V are read where the fused product left them, qkv [tokens, 3 * hidden] with Q, K and V of
// a head at columns head * HEAD, hidden + head * HEAD and 2 * hidden + head * HEAD; out is
// [tokens, hidden]. Products on tensor cores with fp32 accumulation, softmax in fp32, P rounded to
// the element type for the second product. There is no padding and no mask: a row attends to itself.
//
// Bytes: 8 * hidden per token (K and V are read again by each block of queries, from L2).
// FLOPs: 4 * HEAD per pair of tokens of a row and head, and one exponential.
// 256 rows of 384 tokens, hidden 768: 0.6 GB and 116 GFLOP. This is the kernel for sm_80 to sm_89
// (attention_sm90.cu is Hopper's): mma.sync, keys and values through a ring of cp.async stages.
//
// A block is 4 warps and 128 queries of one row and head, 32 a warp (two m16 tiles share every K and
// V fragment, without which reading shared memory would bound the tensor cores); keys come 64 at a
// time. Warps whose queries lie past the row's end only help to load.
//
// In training (TRAINING 1) the logarithm of each query's sum of exponentials is kept, fp32 [tokens,
// heads], and P is dropped out (DROPOUT 1) after it was summed: nothing of the mask is stored.
//
// Compile-time: HEAD (32 or 64), TRAINING, DROPOUT. Launch: grid (blocks of 128 queries in the longest row,
// heads, rows), 128 threads.
#include "attention.cuh"
#include "dropout.cuh"

constexpr int QUERIES = 128;
constexpr int KEYS = 64;
constexpr int THREADS = 128;
constexpr int STAGE = KEYS * HEAD * 2;
constexpr int STAGES = 2;

extern "C" __global__ void __launch_bounds__(THREADS, 2)
    attention(element *out, const element *qkv, const int *rowOffsets, int hidden,
              float scaleLog2
#if TRAINING
              , float *logSumExp, DropoutSite site
#endif
    ) {
  __shared__ __align__(128) u8 shared[QUERIES * HEAD * 2 + STAGES * 2 * STAGE];
  wait_for_previous_kernel();
  const int head = blockIdx.y, start = rowOffsets[blockIdx.z];
  const int length = rowOffsets[blockIdx.z + 1] - start;
  const int firstQuery = blockIdx.x * QUERIES;
  if (firstQuery >= length) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int stride = 3 * hidden;
  const element *base = qkv + (u64)start * stride + head * HEAD;
  const u32 sharedQ = shared_address(shared);
  const u32 sharedK = sharedQ + QUERIES * HEAD * 2, sharedV = sharedK + STAGES * STAGE;
  const int tiles = (length + KEYS - 1) / KEYS;

  auto load_stage = [&](int tile) {
    if (tile < tiles) {
      const element *from = base + (u64)tile * KEYS * stride;
      load_rows<KEYS, THREADS>(sharedK + tile % STAGES * STAGE, from + hidden, stride, length - tile * KEYS);
      load_rows<KEYS, THREADS>(sharedV + tile % STAGES * STAGE, from + 2 * hidden, stride,
                      length - tile * KEYS);
    }
    copy_async_commit();  // an empty group at the end keeps the count of groups simple
  };

  load_rows<QUERIES, THREADS>(sharedQ, base + (u64)firstQuery * stride, stride, length - firstQuery);
  load_stage(0);
  load_stage(1);
  copy_async_wait<1>();
  __syncthreads();

  // A fragments of 32 queries, for the whole life of the block.
  u32 q[2][HEAD / 16][4];
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int k = 0; k < HEAD / 16; k++) {
      const int row = warp * 32 + m * 16 + lane % 16;
      load_matrix_x4(q[m][k], sharedQ + chunk_offset(row, 2 * k + lane / 16));
    }
  }

  float o[2][HEAD / 8][4] = {};
  // Of this lane's four queries: running maximum (in units of the raw product), and the sum of its own share.
  float maximum[2][2], sum[2][2] = {};
#pragma unroll
  for (int m = 0; m < 2; m++) maximum[m][0] = maximum[m][1] = -1e30f;
  const bool active = firstQuery + warp * 32 < length;
#if DROPOUT
  u32 rowKeys[2][2];
  const u32 seed = site.seed();
#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int query = firstQuery + warp * 32 + m * 16 + half * 8 + lane / 4;
      rowKeys[m][half] = dropout_row_key((start + query) * gridDim.y + head, seed);
    }
  }
#endif

  for (int tile = 0; tile < tiles; tile++) {
    if (tile > 0) {
      copy_async_wait<1>();
      __syncthreads();
    }
    if (active) {
      const u32 k0 = sharedK + tile % STAGES * STAGE, v0 = sharedV + tile % STAGES * STAGE;
      float s[2][KEYS / 8][4] = {};
#pragma unroll
      for (int k = 0; k < HEAD / 16; k++) {
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
          u32 b[4];
          const int row = n * 16 + (lane / 16) * 8 + lane % 8;
          load_matrix_x4(b, k0 + chunk_offset(row, 2 * k + (lane / 8) % 2));
#pragma unroll
          for (int m = 0; m < 2; m++) {
            mma_m16n8k16(s[m][2 * n], q[m][k], b[0], b[1]);
            mma_m16n8k16(s[m][2 * n + 1], q[m][k], b[2], b[3]);
          }
        }
      }
      if (tile == tiles - 1 && length % KEYS != 0) {
        const int valid = length - tile * KEYS;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
          for (int i = 0; i < 4; i++) {
            if (n * 8 + (lane % 4) * 2 + i % 2 >= valid) s[0][n][i] = s[1][n][i] = -1e30f;
          }
        }
      }
#pragma unroll
      for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          float largest = maximum[m][half];
#pragma unroll
          for (int n = 0; n < KEYS / 8; n++) {
            largest = fmaxf(largest, fmaxf(s[m][n][2 * half], s[m][n][2 * half + 1]));
          }
          largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
          largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
          const float shrink = exp2_fast((maximum[m][half] - largest) * scaleLog2);
          maximum[m][half] = largest;
          sum[m][half] *= shrink;
#pragma unroll
          for (int n = 0; n < HEAD / 8; n++) {
            o[m][n][2 * half] *= shrink;
            o[m][n][2 * half + 1] *= shrink;
          }
          const float offset = largest * scaleLog2;
#pragma unroll
          for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 2 * half; i < 2 * half + 2; i++) {
              s[m][n][i] = exp2_fast(s[m][n][i] * scaleLog2 - offset);
              sum[m][half] += s[m][n][i];
#if DROPOUT
              const u32 key = tile * KEYS + n * 8 + (lane % 4) * 2 + i % 2;
              if (!site.keeps(key, rowKeys[m][half])) s[m][n][i] = 0.0f;
#endif
            }
          }
        }
      }
#pragma unroll
      for (int k = 0; k < KEYS / 16; k++) {
        u32 p[2][4];
#pragma unroll
        for (int m = 0; m < 2; m++) {
          p[m][0] = to_pair(s[m][2 * k][0], s[m][2 * k][1]);
          p[m][1] = to_pair(s[m][2 * k][2], s[m][2 * k][3]);
          p[m][2] = to_pair(s[m][2 * k + 1][0], s[m][2 * k + 1][1]);
          p[m][3] = to_pair(s[m][2 * k + 1][2], s[m][2 * k + 1][3]);
        }
#pragma unroll
        for (int n = 0; n < HEAD / 16; n++) {
          u32 b[4];
          load_matrix_x4_transposed(b, v0 + chunk_offset(k * 16 + lane % 16, 2 * n + lane / 16));
#pragma unroll
          for (int m = 0; m < 2; m++) {
            mma_m16n8k16(o[m][2 * n], p[m], b[0], b[1]);
            mma_m16n8k16(o[m][2 * n + 1], p[m], b[2], b[3]);
          }
        }
      }
    }
    __syncthreads();
    load_stage(tile + STAGES);
  }
  let_next_kernel_start();

#pragma unroll
  for (int m = 0; m < 2; m++) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float total = sum[m][half];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
#if DROPOUT
      const float scale = site.scale / total;
#else
      const float scale = 1.0f / total;
#endif
      const int query = firstQuery + warp * 32 + m * 16 + half * 8 + lane / 4;
      if (query < length) {
#if TRAINING
        if (lane % 4 == 0) {
          const float logarithm = maximum[m][half] * scaleLog2 + log2f(total);
          logSumExp[(u64)(start + query) * gridDim.y + head] = logarithm * 0.69314718055994531f;
        }
#endif
        element *row = out + (u64)(start + query) * hidden + head * HEAD + (lane % 4) * 2;
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
          *(u32 *)(row + n * 8) = to_pair(o[m][n][2 * half] * scale, o[m][n][2 * half + 1] * scale);
        }
      }
    }
  }
}
