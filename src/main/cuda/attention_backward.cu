// The gradients of self-attention over packed rows; attention.cu has the forward pass. For a row of
// n tokens and one head, with D the dropout's mask times its scale (ones without dropout):
//
//   P  = exp(Q K^T * scale - logSumExp)        dV = (P . D)^T dO
//   dP = (dO V^T) . D                          dS = P . (dP - delta),  delta = sum(dO . O) by query
//   dQ = dS K * scale                          dK = dS^T Q * scale
//
// qkv and dQkv are [tokens, 3 * hidden], out and dOut [tokens, hidden], logSumExp and delta fp32
// [tokens, heads]. Scores are computed again from logSumExp tile by tile (FlashAttention-2, Dao,
// 2023); no matrix of them is in device memory. Products on tensor cores with fp32 accumulation, P
// and dS rounded to the element type for the products that take them.
//
// Bytes: 14 * hidden per token, and 12 * hidden more for each block of keys after a row's first
// (queries' gradients wait in fp32). FLOPs: 10 * HEAD per pair of tokens of a row and head, an
// exponential and the dropout's hash. 32 rows of 384 tokens, hidden 768: 36 GFLOP.
//
// A block takes one row and head, so that nothing is added across blocks and the same input gives
// the same bits. Each warp has 32 keys, whose gradients it sums in registers over all queries, which
// come 32 at a time; the transposed product S^T = K Q^T leaves P^T and dS^T in registers as the
// operands that dV and dK take. dS goes through shared memory once more for dQ, of which each warp
// makes a part. Rows of more than KEYS tokens take their keys in turns.
//
// Compile-time: HEAD (32 or 64), WARPS (4, or 8 with HEAD 64), DROPOUT. Launch: attention_backward
// 32 * WARPS threads, grid (heads, rows), dynamic shared memory as below; attention_delta 256
// threads, grid (tokens * hidden / 2048 rounded up); it also zeroes `count` floats, which sums are added to.
#include "attention.cuh"
#include "dropout.cuh"

constexpr int THREADS = 32 * WARPS;
constexpr int KEYS = 32 * WARPS;
constexpr int QUERIES = 32;
constexpr int KEY_BYTES = KEYS * HEAD * 2;
constexpr int QUERY_BYTES = QUERIES * HEAD * 2;
constexpr int STAGE_BYTES = 2 * QUERY_BYTES + 3 * QUERIES * 4;
constexpr int SCORE_BYTES = KEYS * QUERIES * 2;
// Shared memory: K, V, dS, then two stages of Q, dO, logSumExp, delta and row keys.
constexpr int DQ_COLUMNS = 2 * HEAD / WARPS;
static_assert(DQ_COLUMNS % 16 == 0, "a warp's part of dQ is made of 16 columns");

DEVICE u32 score_offset(int key, int chunk) { return key * 64 + ((chunk ^ ((key >> 1) & 3)) << 4); }

extern "C" __global__ void __launch_bounds__(256)
    attention_delta(float *delta, const element *out, const element *dOut, u64 chunks, float *zeroed,
                    u64 count) {
  wait_for_previous_kernel();
  let_next_kernel_start();
  const u64 chunk = (u64)blockIdx.x * 256 + threadIdx.x;
  for (u64 i = chunk; i < count; i += (u64)gridDim.x * 256) zeroed[i] = 0.0f;
  float sum = 0.0f;
  if (chunk < chunks) {
    const Eight o = unpack(((const uint4 *)out)[chunk]), d = unpack(((const uint4 *)dOut)[chunk]);
#pragma unroll
    for (int i = 0; i < 8; i++) sum += o.value[i] * d.value[i];
  }
#pragma unroll
  for (int distance = ROW_CHUNKS / 2; distance > 0; distance >>= 1) {
    sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  }
  if (chunk < chunks && chunk % ROW_CHUNKS == 0) delta[chunk / ROW_CHUNKS] = sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, WARPS == 4 ? 2 : 1)
    attention_backward(element *dQkv, float *dQuery, const element *qkv, const element *dOut,
                       const float *logSumExp, const float *delta, const int *rowOffsets, int heads,
                       float scale, DropoutSite site) {
  extern __shared__ __align__(128) u8 shared[];
  const int head = blockIdx.x, start = rowOffsets[blockIdx.y];
  const int length = rowOffsets[blockIdx.y + 1] - start;
  if (length == 0) return;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int hidden = heads * HEAD, stride = 3 * hidden;
  const element *base = qkv + (u64)start * stride + head * HEAD;
  const element *dBase = dOut + (u64)start * hidden + head * HEAD;
  const u32 sharedK = shared_address(shared), sharedV = sharedK + KEY_BYTES;
  const u32 sharedS = sharedV + KEY_BYTES, sharedStages = sharedS + SCORE_BYTES;
  const int keyBlocks = (length + KEYS - 1) / KEYS, queryBlocks = (length + QUERIES - 1) / QUERIES;
  const float scaleLog2 = scale * 1.4426950408889634f;
#if DROPOUT
  const u32 seed = site.seed();
#endif

  auto load_stage = [&](int block) {
    const int first = block * QUERIES, valid = length - first;
    const u32 stage = sharedStages + block % 2 * STAGE_BYTES;
    load_rows<QUERIES, THREADS>(stage, base + (u64)first * stride, stride, valid);
    load_rows<QUERIES, THREADS>(stage + QUERY_BYTES, dBase + (u64)first * hidden, hidden, valid);
    if (threadIdx.x < 2 * QUERIES) {
      const int query = threadIdx.x % QUERIES;
      const u64 at = (u64)(start + first + (query < valid ? query : 0)) * heads + head;
      // Queries past the end have zeros everywhere: P of 1 times a dO, a dP and a delta of 0.
      copy_async_4(stage + 2 * QUERY_BYTES + threadIdx.x * 4,
                   threadIdx.x < QUERIES ? logSumExp + at : delta + at, query < valid);
#if DROPOUT
      if (threadIdx.x < QUERIES) {
        u32 *rowKeys = (u32 *)(shared + 2 * KEY_BYTES + SCORE_BYTES + block % 2 * STAGE_BYTES +
                               2 * QUERY_BYTES) + 2 * QUERIES;
        rowKeys[query] = dropout_row_key((start + first + query) * heads + head, seed);
      }
#endif
    }
    copy_async_commit();
  };

  for (int block = 0; block < keyBlocks; block++) {
    const int firstKey = block * KEYS, validKeys = length - firstKey;
    __syncthreads();  // the keys of the block before are done with
    load_rows<KEYS, THREADS>(sharedK, base + (u64)firstKey * stride + hidden, stride, validKeys);
    load_rows<KEYS, THREADS>(sharedV, base + (u64)firstKey * stride + 2 * hidden, stride, validKeys);
    load_stage(0);
    const bool active = warp * 32 < validKeys, tail = warp * 32 + 32 > validKeys;
    float dK[2][HEAD / 8][4] = {}, dV[2][HEAD / 8][4] = {};

    for (int queryBlock = 0; queryBlock < queryBlocks; queryBlock++) {
      copy_async_wait<0>();
      __syncthreads();  // this stage has arrived; the one before, and its dS, are done with
      if (queryBlock + 1 < queryBlocks) load_stage(queryBlock + 1);
      const u32 sharedQ = sharedStages + queryBlock % 2 * STAGE_BYTES;
      const u32 sharedD = sharedQ + QUERY_BYTES;
      const float *perQuery = (const float *)(shared + 2 * KEY_BYTES + SCORE_BYTES +
                                              queryBlock % 2 * STAGE_BYTES + 2 * QUERY_BYTES);
      if (active) {
        // P^T: rows are keys, columns queries.
        float p[2][QUERIES / 8][4] = {};
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) {
          u32 a[2][4];
#pragma unroll
          for (int m = 0; m < 2; m++) {
            load_matrix_x4(a[m], sharedK + chunk_offset(warp * 32 + m * 16 + lane % 16,
                                                        2 * k + lane / 16));
          }
#pragma unroll
          for (int n = 0; n < QUERIES / 16; n++) {
            u32 b[4];
            const int row = n * 16 + (lane / 16) * 8 + lane % 8;
            load_matrix_x4(b, sharedQ + chunk_offset(row, 2 * k + (lane / 8) % 2));
#pragma unroll
            for (int m = 0; m < 2; m++) {
              mma_m16n8k16(p[m][2 * n], a[m], b[0], b[1]);
              mma_m16n8k16(p[m][2 * n + 1], a[m], b[2], b[3]);
            }
          }
        }
        u32 kept = 0xffffffffu;
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++) {
#pragma unroll
          for (int odd = 0; odd < 2; odd++) {
            const int query = n * 8 + (lane % 4) * 2 + odd;
            const float offset = perQuery[query] * 1.4426950408889634f;
#if DROPOUT
            const u32 rowKey = __float_as_uint(perQuery[2 * QUERIES + query]);
#endif
#pragma unroll
            for (int m = 0; m < 2; m++) {
#pragma unroll
              for (int half = 0; half < 2; half++) {
                const int i = 2 * half + odd;
                p[m][n][i] = exp2_fast(p[m][n][i] * scaleLog2 - offset);
#if DROPOUT
                const u32 key = firstKey + warp * 32 + m * 16 + half * 8 + lane / 4;
                if (!site.keeps(key, rowKey)) kept &= ~(1u << (m * 16 + n * 4 + i));
#endif
              }
            }
          }
        }
        if (tail) {
#pragma unroll
          for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
              if (warp * 32 + m * 16 + i / 2 * 8 + lane / 4 >= validKeys) {
#pragma unroll
                for (int n = 0; n < QUERIES / 8; n++) p[m][n][i] = 0.0f;
              }
            }
          }
        }
        // dV += (P . D)^T dO; the dropout's scale follows at the end.
#pragma unroll
        for (int k = 0; k < QUERIES / 16; k++) {
          u32 a[2][4];
#pragma unroll
          for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const int n = 2 * k + i / 2, low = i % 2 * 2;
              float first = p[m][n][low], second = p[m][n][low + 1];
#if DROPOUT
              if (!(kept >> (m * 16 + n * 4 + low) & 1)) first = 0.0f;
              if (!(kept >> (m * 16 + n * 4 + low + 1) & 1)) second = 0.0f;
#endif
              a[m][i] = to_pair(first, second);
            }
          }
#pragma unroll
          for (int n = 0; n < HEAD / 16; n++) {
            u32 b[4];
            load_matrix_x4_transposed(b, sharedD + chunk_offset(k * 16 + lane % 16, 2 * n + lane / 16));
#pragma unroll
            for (int m = 0; m < 2; m++) {
              mma_m16n8k16(dV[m][2 * n], a[m], b[0], b[1]);
              mma_m16n8k16(dV[m][2 * n + 1], a[m], b[2], b[3]);
            }
          }
        }
        // dP^T = V dO^T, then dS^T in its place.
        float dS[2][QUERIES / 8][4] = {};
#pragma unroll
        for (int k = 0; k < HEAD / 16; k++) {
          u32 a[2][4];
#pragma unroll
          for (int m = 0; m < 2; m++) {
            load_matrix_x4(a[m], sharedV + chunk_offset(warp * 32 + m * 16 + lane % 16,
                                                        2 * k + lane / 16));
          }
#pragma unroll
          for (int n = 0; n < QUERIES / 16; n++) {
            u32 b[4];
            const int row = n * 16 + (lane / 16) * 8 + lane % 8;
            load_matrix_x4(b, sharedD + chunk_offset(row, 2 * k + (lane / 8) % 2));
#pragma unroll
            for (int m = 0; m < 2; m++) {
              mma_m16n8k16(dS[m][2 * n], a[m], b[0], b[1]);
              mma_m16n8k16(dS[m][2 * n + 1], a[m], b[2], b[3]);
            }
          }
        }
#pragma unroll
        for (int n = 0; n < QUERIES / 8; n++) {
#pragma unroll
          for (int odd = 0; odd < 2; odd++) {
            const float d = perQuery[QUERIES + n * 8 + (lane % 4) * 2 + odd];
#pragma unroll
            for (int m = 0; m < 2; m++) {
#pragma unroll
              for (int half = 0; half < 2; half++) {
                const int i = 2 * half + odd;
                float dP = dS[m][n][i];
#if DROPOUT
                dP = kept >> (m * 16 + n * 4 + i) & 1 ? dP * site.scale : 0.0f;
#endif
                dS[m][n][i] = p[m][n][i] * (dP - d);
              }
            }
          }
        }
        // dK += dS^T Q, and dS^T to shared memory.
#pragma unroll
        for (int k = 0; k < QUERIES / 16; k++) {
          u32 a[2][4];
#pragma unroll
          for (int m = 0; m < 2; m++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
              const int n = 2 * k + i / 2, low = i % 2 * 2;
              a[m][i] = to_pair(dS[m][n][low], dS[m][n][low + 1]);
              const int key = warp * 32 + m * 16 + i % 2 * 8 + lane / 4;
              store_shared(sharedS + score_offset(key, n) + lane % 4 * 4, a[m][i]);
            }
          }
#pragma unroll
          for (int n = 0; n < HEAD / 16; n++) {
            u32 b[4];
            load_matrix_x4_transposed(b, sharedQ + chunk_offset(k * 16 + lane % 16, 2 * n + lane / 16));
#pragma unroll
            for (int m = 0; m < 2; m++) {
              mma_m16n8k16(dK[m][2 * n], a[m], b[0], b[1]);
              mma_m16n8k16(dK[m][2 * n + 1], a[m], b[2], b[3]);
            }
          }
        }
      }
      __syncthreads();

      // dQ of 16 queries and DQ_COLUMNS columns, over the keys of all warps.
      const int firstQuery = warp % 2 * 16;
      const int firstColumn = warp / 2 * DQ_COLUMNS;
      const int query = queryBlock * QUERIES + firstQuery + lane / 4;
      const int column = head * HEAD + firstColumn + (lane % 4) * 2;
      float *waiting = dQuery + (u64)(start + query) * hidden + column;
      float dQ[DQ_COLUMNS / 8][4] = {};
      if (block > 0) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          if (query + half * 8 < length) {
#pragma unroll
            for (int n = 0; n < DQ_COLUMNS / 8; n++) {
              const float2 before = *(const float2 *)(waiting + half * 8 * hidden + n * 8);
              dQ[n][2 * half] = before.x;
              dQ[n][2 * half + 1] = before.y;
            }
          }
        }
      }
      const int steps = validKeys >= KEYS ? KEYS / 16 : (validKeys + 31) / 32 * 2;
#pragma unroll 4
      for (int k = 0; k < steps; k++) {
        u32 a[4];
        load_matrix_x4_transposed(a, sharedS + score_offset(k * 16 + (lane / 16) * 8 + lane % 8,
                                                            firstQuery / 8 + (lane / 8) % 2));
#pragma unroll
        for (int n = 0; n < DQ_COLUMNS / 16; n++) {
          u32 b[4];
          load_matrix_x4_transposed(
              b, sharedK + chunk_offset(k * 16 + lane % 16, firstColumn / 8 + 2 * n + lane / 16));
          mma_m16n8k16(dQ[2 * n], a, b[0], b[1]);
          mma_m16n8k16(dQ[2 * n + 1], a, b[2], b[3]);
        }
      }
#pragma unroll
      for (int half = 0; half < 2; half++) {
        if (query + half * 8 >= length) continue;
        element *row = dQkv + (u64)(start + query + half * 8) * stride + column;
#pragma unroll
        for (int n = 0; n < DQ_COLUMNS / 8; n++) {
          const float2 value = make_float2(dQ[n][2 * half], dQ[n][2 * half + 1]);
          if (block < keyBlocks - 1) {
            *(float2 *)(waiting + half * 8 * hidden + n * 8) = value;
          } else {
            *(u32 *)(row + n * 8) = to_pair(value.x * scale, value.y * scale);
          }
        }
      }
    }

    if (active) {
#pragma unroll
      for (int m = 0; m < 2; m++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
          const int key = warp * 32 + m * 16 + half * 8 + lane / 4;
          if (key >= validKeys) continue;
          element *row =
              dQkv + (u64)(start + firstKey + key) * stride + hidden + head * HEAD + (lane % 4) * 2;
#pragma unroll
          for (int n = 0; n < HEAD / 8; n++) {
            *(u32 *)(row + n * 8) =
                to_pair(dK[m][n][2 * half] * scale, dK[m][n][2 * half + 1] * scale);
            *(u32 *)(row + hidden + n * 8) =
                to_pair(dV[m][n][2 * half] * site.scale, dV[m][n][2 * half + 1] * site.scale);
          }
        }
      }
    }
  }
}
