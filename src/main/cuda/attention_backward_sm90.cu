// The gradients of self-attention on Hopper; what is computed, and in which layouts, is said in
// attention_backward.cu, which is the same operation for other GPUs and has attention_delta.
//
// 32 rows of 384 tokens, hidden 768, heads of 64: 36 GFLOP are 0.05 ms of wgmma; 57 M exponentials,
// as many hashes of dropout and about ten more instructions each take the schedulers 0.07 ms. So the
// five products must run beside that arithmetic:
//   - a block takes a row and head, 128 keys at a time, 64 by each of two warpgroups; what one of them
//     computes runs beside what the other multiplies;
//   - keys and values stay in registers as the first operands of S^T = K Q^T and dP^T = V dO^T, whose
//     results P^T and dS^T are the first operands of dV += (P . D)^T dO and dK += dS^T Q where they
//     are: 64 queries at a time, read from shared memory once by each warpgroup;
//   - dS goes to shared memory transposed for dQ = dS K, which the warpgroups make in turns, the even
//     blocks of queries by one and the odd by the other;
//   - three stages of queries, so that one barrier a block of queries is enough: behind it dS and the
//     next stage are there, and the stage before this is done with.
//
// Nothing is added across blocks: the same input gives the same bits.
//
// Compile-time: HEAD (32 or 64), DROPOUT. Launch: 256 threads, grid (heads, rows), dynamic shared
// memory PER_QUERY_AT + STAGES * 3 * QUERIES * 4 + 1024 bytes.
#include "common.cuh"
#include "hopper.cuh"
#include "dropout.cuh"

constexpr int THREADS = 256;
constexpr int KEYS = 128;
constexpr int QUERIES = 64;
constexpr int STAGES = 3;
constexpr int ROW_BYTES = HEAD * 2;
constexpr int ROW_CHUNKS = HEAD / 8;
constexpr int KEY_BYTES = KEYS * ROW_BYTES;
constexpr int QUERY_BYTES = QUERIES * ROW_BYTES;
constexpr int SCORE_BYTES = QUERIES * 128;  // of 64 queries with one warpgroup's keys

// Shared memory: K, V, two buffers of dS, the stages' Q and dO, and their logSumExp, delta, row keys.
constexpr int VALUES_AT = KEY_BYTES;
constexpr int SCORES_AT = VALUES_AT + KEY_BYTES;
constexpr int STAGES_AT = SCORES_AT + 4 * SCORE_BYTES;
constexpr int PER_QUERY_AT = STAGES_AT + STAGES * 2 * QUERY_BYTES;

// ---- products ------------------------------------------------------------------------------------

// Byte offset of a 16-byte chunk in a tile: the swizzle that wgmma undoes, of 128 or 64 bytes.
DEVICE u32 chunk_offset(int row, int chunk) {
  if constexpr (HEAD == 64) return row * 128 + ((chunk ^ (row & 7)) << 4);
  return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4);
}

// A tile for wgmma: rows as wide as the swizzle, groups of eight rows one after another.
template <int BYTES> DEVICE u64 descriptor(u32 shared) {
  constexpr u64 group = 8 * BYTES >> 4;
  constexpr u64 swizzle = BYTES == 128 ? 1 : 2;
  return (u64)((shared & 0x3ffff) >> 4) | group << 16 | group << 32 | swizzle << 62;
}
constexpr u64 SIXTEEN_ROWS = 16 * ROW_BYTES >> 4;

#define SCORES(c, accumulate)                                                    \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES "{" NAMES_32 "}, " \
               "{%32,%33,%34,%35}, %36, " accumulate ", 1, 1, 0;"                \
               : R16(c, s, 0), R16(c, s, 4)                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b))

// s[64 keys, 64 queries] = or += a[64, 16] * b[64 queries, 16]^T: a from registers.
template <bool FIRST> DEVICE void multiply_scores(float (&s)[8][4], const u32 (&a)[4], u64 b) {
  if constexpr (FIRST) SCORES("=f", "0"); else SCORES("+f", "1");
}

// d[64, HEAD] += a[64, 16 rows of b] * b[16, HEAD]: a from registers.
DEVICE void multiply_rows(float (&d)[HEAD / 8][4], const u32 (&a)[4], u64 b) {
#if HEAD == 64
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES "{" NAMES_32 "}, "
               "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;"
               : R16("+f", d, 0), R16("+f", d, 4)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#else
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16" TYPES "{" NAMES_16 "}, "
               "{%16,%17,%18,%19}, %20, 1, 1, 1, 1;"
               : R16("+f", d, 0)
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
#endif
}

// The same with a in shared memory, rows of 64 elements.
DEVICE void multiply_shared(float (&d)[HEAD / 8][4], u64 a, u64 b) {
#if HEAD == 64
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16" TYPES "{" NAMES_32 "}, "
               "%32, %33, 1, 1, 1, 0, 1;"
               : R16("+f", d, 0), R16("+f", d, 4)
               : "l"(a), "l"(b));
#else
  asm volatile("wgmma.mma_async.sync.aligned.m64n32k16" TYPES "{" NAMES_16 "}, "
               "%16, %17, 1, 1, 1, 0, 1;"
               : R16("+f", d, 0)
               : "l"(a), "l"(b));
#endif
}

// ---- loads ---------------------------------------------------------------------------------------

template <int ROWS> DEVICE void load_tile(u32 shared, const element *from, int stride, int valid) {
#pragma unroll
  for (int i = 0; i < ROWS * ROW_CHUNKS / THREADS; i++) {
    const int at = threadIdx.x + i * THREADS, row = at / ROW_CHUNKS, chunk = at % ROW_CHUNKS;
    copy_async_16(shared + chunk_offset(row, chunk),
                  from + (u64)(row < valid ? row : 0) * stride + chunk * 8, row < valid);
  }
}

// A row and head of the batch.
struct Head {
  const element *query, *dOut;  // its first token's
  const float *logSumExp, *delta;
  int start, length, heads, head;
  u32 seed;

  DEVICE_MEMBER int stride() const { return 3 * heads * HEAD; }
  DEVICE_MEMBER int query_blocks() const { return (length + QUERIES - 1) / QUERIES; }

  // A block of queries into its stage. Those past the end have zeros everywhere: P of 1 times a dO, a
  // dP and a delta of 0.
  DEVICE_MEMBER void load_stage(u32 shared, int block) const {
    if (block < query_blocks()) {
      const int slot = block % STAGES, first = block * QUERIES, valid = length - first;
      const u32 stage = shared + STAGES_AT + slot * 2 * QUERY_BYTES;
      load_tile<QUERIES>(stage, query + (u64)first * stride(), stride(), valid);
      load_tile<QUERIES>(stage + QUERY_BYTES, dOut + (u64)first * heads * HEAD, heads * HEAD, valid);
      const u32 perQuery = shared + PER_QUERY_AT + slot * 3 * QUERIES * 4 + threadIdx.x * 4;
      const int each = threadIdx.x % QUERIES;
      if (threadIdx.x < 2 * QUERIES) {
        const u64 at = (u64)(start + first + (each < valid ? each : 0)) * heads + head;
        copy_async_4(perQuery, threadIdx.x < QUERIES ? logSumExp + at : delta + at, each < valid);
#if DROPOUT
      } else if (threadIdx.x < 3 * QUERIES) {
        store_shared(perQuery, dropout_row_key((start + first + each) * heads + head, seed));
#endif
      }
    }
    copy_async_commit();  // an empty group at the end keeps the count of groups simple
  }
};

// Makes this thread's writes to shared memory, and its copies, visible to wgmma behind a barrier.
template <int PENDING> DEVICE void publish() {
  copy_async_wait<PENDING>();
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- the arithmetic between the products ---------------------------------------------------------

// s becomes P^T; of n-th eight queries this thread's two, of keys lane / 4 and lane / 4 + 8 of its
// warp's 16. Returns a bit for each element that dropout keeps, and P . D in `kept` as an operand.
DEVICE u32 probabilities(float (&s)[8][4], u32 (&kept)[4][4], const float *perQuery,
                         float scaleLog2, int key, int keys, const DropoutSite &site) {
  u32 bits = 0xffffffffu;
#pragma unroll
  for (int n = 0; n < 8; n++) {
    const int query = n * 8 + threadIdx.x % 4 * 2;
    const float2 logSumExp = *(const float2 *)(perQuery + query);
#if DROPOUT
    const uint2 rowKeys = *(const uint2 *)(perQuery + 2 * QUERIES + query);
#endif
#pragma unroll
    for (int i = 0; i < 4; i++) {
      const float offset = (i % 2 ? logSumExp.y : logSumExp.x) * 1.4426950408889634f;
      s[n][i] = exp2_fast(s[n][i] * scaleLog2 - offset);
      if (key + i / 2 * 8 >= keys) s[n][i] = 0.0f;
#if DROPOUT
      const u32 rowKey = i % 2 ? rowKeys.y : rowKeys.x;
      if (!site.keeps((u32)(key + i / 2 * 8) * DROPOUT_COLUMN, rowKey)) bits &= ~(1u << (n * 4 + i));
#endif
    }
    float p[4];
#pragma unroll
    for (int i = 0; i < 4; i++) p[i] = bits >> (n * 4 + i) & 1 ? s[n][i] : 0.0f;
    kept[n / 2][n % 2 * 2] = to_pair(p[0], p[1]);
    kept[n / 2][n % 2 * 2 + 1] = to_pair(p[2], p[3]);
  }
  return bits;
}

// dS^T = P^T . (dP^T . D - delta), as an operand.
DEVICE void score_gradients(const float (&p)[8][4], const float (&dP)[8][4], u32 (&dS)[4][4],
                            const float *perQuery, u32 bits, const DropoutSite &site) {
#pragma unroll
  for (int n = 0; n < 8; n++) {
    const float2 delta = *(const float2 *)(perQuery + QUERIES + n * 8 + threadIdx.x % 4 * 2);
    float value[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
      float gradient = dP[n][i];
#if DROPOUT
      gradient = bits >> (n * 4 + i) & 1 ? gradient * site.scale : 0.0f;
#endif
      value[i] = p[n][i] * (gradient - (i % 2 ? delta.y : delta.x));
    }
    dS[n / 2][n % 2 * 2] = to_pair(value[0], value[1]);
    dS[n / 2][n % 2 * 2 + 1] = to_pair(value[2], value[3]);
  }
}

// dS^T to shared memory as dS: [64 queries, 64 keys], rows of 128 bytes.
DEVICE void store_transposed(u32 scores, const u32 (&dS)[4][4]) {
  const int lane = threadIdx.x % 32, chunk = threadIdx.x / 32 % 4 * 2 + lane / 8 % 2;
#pragma unroll
  for (int k = 0; k < 4; k++) {
    const int query = k * 16 + lane / 16 * 8 + lane % 8;
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(
                     scores + query * 128 + ((chunk ^ (query & 7)) << 4)),
                 "r"(dS[k][0]), "r"(dS[k][1]), "r"(dS[k][2]), "r"(dS[k][3])
                 : "memory");
  }
}

// ---- a row and head ------------------------------------------------------------------------------

extern "C" __global__ void __launch_bounds__(THREADS, 1)
    attention_backward_sm90(element *dQkv, float *dQuery, const element *qkv, const element *dOut,
                            const float *logSumExp, const float *delta, const int *rowOffsets,
                            int heads, float scale, DropoutSite site) {
  extern __shared__ u8 memory[];
  const u32 shared = (shared_address(memory) + 1023) & ~1023u;
  const u8 *generic = memory + (shared - shared_address(memory));
  const int hidden = heads * HEAD, start = rowOffsets[blockIdx.y];
  Head row = {qkv + (u64)start * 3 * hidden + blockIdx.x * HEAD,
              dOut + (u64)start * hidden + blockIdx.x * HEAD,
              logSumExp,
              delta,
              start,
              rowOffsets[blockIdx.y + 1] - start,
              heads,
              (int)blockIdx.x,
              0};
  if (row.length == 0) return;
#if DROPOUT
  row.seed = site.seed();
#endif
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32 % 4;
  // By a shuffle, so that the compiler knows it is one for the warp: it serializes wgmma on branches
  // that may diverge.
  const int warpgroup = __shfl_sync(0xffffffffu, threadIdx.x / 128, 0);
  const int queryBlocks = row.query_blocks(), stride = row.stride();
  const float scaleLog2 = scale * 1.4426950408889634f;

  for (int firstKey = 0; firstKey < row.length; firstKey += KEYS) {
    const int keys = row.length - firstKey;
    const bool last = keys <= KEYS, active = warpgroup * 64 < keys;
    __syncthreads();  // all that is shared is done with
    load_tile<KEYS>(shared, row.query + (u64)firstKey * stride + hidden, stride, keys);
    load_tile<KEYS>(shared + VALUES_AT, row.query + (u64)firstKey * stride + 2 * hidden, stride, keys);
    row.load_stage(shared, 0);
    row.load_stage(shared, 1);
    publish<1>();
    __syncthreads();

    u32 k[HEAD / 16][4], v[HEAD / 16][4];
#pragma unroll
    for (int step = 0; step < HEAD / 16; step++) {
      const u32 at = chunk_offset(warpgroup * 64 + warp * 16 + lane % 16, 2 * step + lane / 16);
      load_matrix_x4(k[step], shared + at);
      load_matrix_x4(v[step], shared + VALUES_AT + at);
    }
    float dK[HEAD / 8][4] = {}, dV[HEAD / 8][4] = {};

    for (int block = 0; block < queryBlocks; block++) {
      const u32 stage = shared + STAGES_AT + block % STAGES * 2 * QUERY_BYTES;
      const u32 scores = shared + SCORES_AT + block % 2 * 2 * SCORE_BYTES;
      const u64 queries = descriptor<ROW_BYTES>(stage);
      const u64 gradients = descriptor<ROW_BYTES>(stage + QUERY_BYTES);
      u32 dS[4][4];
      if (active) {
        const float *perQuery =
            (const float *)(generic + PER_QUERY_AT + block % STAGES * 3 * QUERIES * 4);
        float s[8][4], dP[8][4];
        u32 kept[4][4];
        wgmma_fence();
        multiply_scores<true>(s, k[0], queries);
#pragma unroll
        for (int step = 1; step < HEAD / 16; step++) {
          multiply_scores<false>(s, k[step], queries + 2 * step);
        }
        wgmma_commit();
        multiply_scores<true>(dP, v[0], gradients);
#pragma unroll
        for (int step = 1; step < HEAD / 16; step++) {
          multiply_scores<false>(dP, v[step], gradients + 2 * step);
        }
        wgmma_commit();
        wgmma_wait<1>();
        const u32 bits = probabilities(s, kept, perQuery, scaleLog2,
                                       firstKey + warpgroup * 64 + warp * 16 + lane / 4, row.length,
                                       site);
        wgmma_wait<0>();
        score_gradients(s, dP, dS, perQuery, bits, site);
        store_transposed(scores + warpgroup * SCORE_BYTES, dS);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++) {
          multiply_rows(dV, kept[step], gradients + SIXTEEN_ROWS * step);
          multiply_rows(dK, dS[step], queries + SIXTEEN_ROWS * step);
        }
        wgmma_commit();
      }
      publish<0>();
      __syncthreads();
      row.load_stage(shared, block + 2);

      if (block % 2 == warpgroup) {
        const int query = block * QUERIES + warp * 16 + lane / 4;
        const int column = row.head * HEAD + lane % 4 * 2;
        float *waiting = dQuery + (u64)(start + query) * hidden + column;
        float dQ[HEAD / 8][4] = {};
        if (firstKey > 0) {
#pragma unroll
          for (int half = 0; half < 2; half++) {
            if (query + half * 8 < row.length) {
#pragma unroll
              for (int n = 0; n < HEAD / 8; n++) {
                const float2 before = *(const float2 *)(waiting + half * 8 * hidden + n * 8);
                dQ[n][2 * half] = before.x;
                dQ[n][2 * half + 1] = before.y;
              }
            }
          }
        }
        const u64 keyRows = descriptor<ROW_BYTES>(shared);
        wgmma_fence();
#pragma unroll
        for (int step = 0; step < 4; step++) {
          multiply_shared(dQ, descriptor<128>(scores) + 2 * step, keyRows + SIXTEEN_ROWS * step);
        }
        if (keys > 64) {
#pragma unroll
          for (int step = 0; step < 4; step++) {
            multiply_shared(dQ, descriptor<128>(scores + SCORE_BYTES) + 2 * step,
                            keyRows + SIXTEEN_ROWS * (4 + step));
          }
        }
        wgmma_commit();
        wgmma_wait<0>();
#pragma unroll
        for (int half = 0; half < 2; half++) {
          if (query + half * 8 >= row.length) continue;
          element *to = dQkv + (u64)(start + query + half * 8) * stride + column;
#pragma unroll
          for (int n = 0; n < HEAD / 8; n++) {
            const float2 value = make_float2(dQ[n][2 * half], dQ[n][2 * half + 1]);
            if (last) {
              *(u32 *)(to + n * 8) = to_pair(value.x * scale, value.y * scale);
            } else {
              *(float2 *)(waiting + half * 8 * hidden + n * 8) = value;
            }
          }
        }
      } else {
        wgmma_wait<0>();
      }
    }

    if (active) {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const int key = warpgroup * 64 + warp * 16 + half * 8 + lane / 4;
        if (key >= keys) continue;
        element *to =
            dQkv + (u64)(start + firstKey + key) * stride + hidden + row.head * HEAD + lane % 4 * 2;
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++) {
          *(u32 *)(to + n * 8) = to_pair(dK[n][2 * half] * scale, dK[n][2 * half + 1] * scale);
          *(u32 *)(to + hidden + n * 8) =
              to_pair(dV[n][2 * half] * site.scale, dV[n][2 * half + 1] * site.scale);
        }
      }
    }
  }
}
